import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { NodeLoopbackRedirect } from "effect-holdfast/node"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { fork } from "node:child_process"
import { chromiumContext } from "./support/chromium.js"
import { memory } from "./support/keyValueMemory.js"
import type { Question, Report } from "./support/oidcProviderChild.js"
import { bundled } from "./support/programs.js"
import { browser } from "./support/tools.js"

const signingKeys = Effect.promise(() =>
  crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"])
)

/** A provider for one test, and a client for its questions. */
const provider = Effect.gen(function*() {
  const keys = yield* signingKeys
  const jwk = yield* Effect.promise(() => crypto.subtle.exportKey("jwk", keys.publicKey))
  const program = yield* Effect.promise(() => bundled(new URL("./support/oidcProviderChild.ts", import.meta.url)))
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => fork(program, { stdio: ["ignore", "ignore", "ignore", "ipc"], execArgv: [] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const ask = <A>(question: Question) =>
    Effect.async<A>((resume) => {
      child.once("message", ({ answer, error }: { readonly answer: A; readonly error?: string }) =>
        resume(error === undefined ? Effect.succeed(answer) : Effect.dieMessage(error)))
      child.send(question)
    })
  const issuer = yield* ask<string>({ ask: "start", jwk: jwk as never })
  return {
    keys,
    issuer,
    report: ask<Report>({ ask: "report" }),
    approve: (userCode: string) => ask<boolean>({ ask: "approve", userCode })
  }
})

/** Like a browser: follows redirects, with its cookies, to the address on which the program listens. */
const browse = (start: URL) =>
  Effect.promise(async () => {
    const cookies = new Map<string, string>()
    let url = start
    for (let hops = 0; hops < 12; hops++) {
      const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ")
      const response = await fetch(url, { redirect: "manual", headers: { cookie } })
      for (const set of response.headers.getSetCookie()) {
        const [name, value] = set.split(";", 1)[0]!.split("=", 2) as [string, string]
        cookies.set(name, value)
      }
      await response.text()
      const location = response.headers.get("location")
      if (location === null) return
      url = new URL(location, url)
    }
  })

const options = { clientId: "cli", allowInsecureRequests: true, scope: "openid offline_access read" } as const

describe("against oidc-provider", () => {
  it.scopedLive("O7: client credentials, with a secret and with a key, and DPoP with the server's nonces", () =>
    Effect.gen(function*() {
      const { issuer, keys, report } = yield* provider
      for (const dpop of [undefined, true] as const) {
        const secret = yield* OAuth2Session.make({
          issuer,
          dpop,
          clientId: "service",
          clientAuth: OAuth2Session.secretBasic(Redacted.make("canary-service-secret")),
          grant: OAuth2Session.clientCredentials,
          allowInsecureRequests: true
        })
        const signing = yield* OAuth2Session.make({
          issuer,
          dpop,
          clientId: "signer",
          clientAuth: OAuth2Session.privateKeyJwt({ key: keys.privateKey, kid: "k1" }),
          grant: OAuth2Session.clientCredentials,
          allowInsecureRequests: true
        })
        for (const session of [secret, signing]) {
          const first = yield* session.current
          assert.strictEqual(first.value.tokenType, dpop ? "DPoP" : "Bearer")
          assert.notStrictEqual((yield* session.refresh(first)).value.accessToken, first.value.accessToken)
        }
      }
      const { errors, grants } = yield* report
      assert.strictEqual(grants.length, 8)
      // The server asks each session once for a nonce.
      assert.deepStrictEqual(errors, ["use_dpop_nonce", "use_dpop_nonce"])
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scopedLive("O7: the code flow over a loopback receiver, pushed or not, rotation, and a restart", () =>
    Effect.gen(function*() {
      const { issuer, report } = yield* provider
      for (const pushed of [false, true]) {
        const disk = memory()
        const make = Effect.provideService(
          OAuth2Session.make({
            ...options,
            issuer,
            persist: { key: "cli" },
            grant: OAuth2Session.authorizationCode(
              NodeLoopbackRedirect.make({ path: "/callback", open: browse }),
              { pushed, parameters: { prompt: "consent" } }
            )
          }),
          KeyValueStore.KeyValueStore,
          disk.store
        )
        const last = yield* Effect.scoped(Effect.gen(function*() {
          const session = yield* make
          const first = yield* session.current
          assert.strictEqual(first.value.claims?.["sub"], "ada")
          assert.deepStrictEqual([...first.value.scope].sort(), ["offline_access", "openid", "read"])
          const all = yield* Effect.all(Array.from({ length: 50 }, () => session.refresh(first)), {
            concurrency: "unbounded"
          })
          assert.strictEqual(new Set(all.map(({ number }) => number)).size, 1)
          return all[0]!
        }))
        const session = yield* make
        const found = yield* session.current
        assert.strictEqual(Redacted.value(found.value.accessToken), Redacted.value(last.value.accessToken))
        const next = yield* session.refresh(found)
        assert.strictEqual(next.value.claims?.["sub"], "ada")
        yield* session.end
        assert.strictEqual(disk.values.size, 0)
      }
      const { errors, grants, revoked } = yield* report
      assert.deepStrictEqual(errors, [])
      assert.deepStrictEqual(grants, [
        "authorization_code",
        "refresh_token",
        "refresh_token",
        "authorization_code",
        "refresh_token",
        "refresh_token"
      ])
      // By `end`; a refresh token that is presented twice would revoke its grant too.
      assert.strictEqual(revoked, 2)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scopedLive.runIf(browser)(
    "O7: the code flow in Chromium: the page says that the window may be closed",
    () =>
      Effect.gen(function*() {
        const { issuer, report } = yield* provider
        const context = yield* chromiumContext
        const tab = yield* Effect.promise(() => context.newPage())
        let page: Promise<{ readonly text: string; readonly url: string }> | undefined
        const session = yield* OAuth2Session.make({
          ...options,
          issuer,
          grant: OAuth2Session.authorizationCode(
            NodeLoopbackRedirect.make({
              path: "/callback",
              open: (url) =>
                Effect.sync(() => {
                  page = tab.goto(url.href).then(async () => ({ text: await tab.innerText("body"), url: tab.url() }))
                })
            }),
            { parameters: { prompt: "consent" } }
          )
        })
        const first = yield* session.current
        assert.strictEqual(first.value.claims?.["sub"], "ada")
        const { text, url } = yield* Effect.promise(() => page!)
        assert.include(text, "You may close this window")
        assert.strictEqual(new URL(url).pathname, "/callback")
        const next = yield* session.refresh(first)
        assert.notStrictEqual(Redacted.value(next.value.accessToken), Redacted.value(first.value.accessToken))
        yield* session.end
        const { errors, grants, revoked } = yield* report
        assert.deepStrictEqual({ errors, grants, revoked }, {
          errors: [],
          grants: ["authorization_code", "refresh_token"],
          revoked: 1
        })
      }).pipe(Effect.provide(FetchHttpClient.layer)),
    120_000
  )

  it.scopedLive("O7: the device flow, and a grant that was revoked elsewhere: the user is asked again", () =>
    Effect.gen(function*() {
      const { approve, issuer, report } = yield* provider
      const prompts: Array<string> = []
      const session = yield* OAuth2Session.make({
        ...options,
        issuer,
        grant: OAuth2Session.deviceCode(({ userCode }) =>
          Effect.zipRight(Effect.sync(() => prompts.push(userCode)), Effect.asVoid(approve(userCode)))
        )
      })
      const first = yield* session.current
      assert.strictEqual(first.value.claims?.["sub"], "ada")
      const second = yield* session.refresh(first)
      // Another client presents the spent refresh token: the server revokes the whole grant.
      const thief = yield* OAuth2Session.make({
        ...options,
        issuer,
        grant: OAuth2Session.refreshToken(first.value.refreshToken!)
      })
      assert.instanceOf(yield* Effect.flip(thief.current), OAuth2Session.SignInRequired)
      yield* session.refresh(second)
      assert.strictEqual(prompts.length, 2)
      const { errors } = yield* report
      assert.deepStrictEqual(errors.filter((error) => error !== "authorization_pending"), [
        "invalid_grant",
        "invalid_grant"
      ])
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
