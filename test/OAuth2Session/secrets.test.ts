import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import { assert, describe, it } from "@effect/vitest"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/TestClock"
import { inspect } from "node:util"
import { type Asked, authorizationServer, json } from "../support/authorizationServer.js"
import { form } from "../support/form.js"
import { eventually, type Reply } from "../support/httpServer.js"
import { watched } from "../support/watching.js"

/** With characters that a form, a URL and a header each encode differently. */
const canary = (name: string) => Redacted.make(`canary/${name}+ü`)

const keyPair = Effect.promise(() =>
  crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"])
)

const type = "urn:ietf:params:oauth:token-type:access_token"

const grants: Readonly<Record<string, OAuth2Session.Grant>> = {
  clientCredentials: OAuth2Session.clientCredentials,
  refreshToken: OAuth2Session.refreshToken(canary("refresh-token")),
  deviceCode: OAuth2Session.deviceCode(() => Effect.void),
  authorizationCode: OAuth2Session.authorizationCode({
    redirectUri: "http://127.0.0.1/back",
    onAuthorize: (url) =>
      Effect.sync(() => {
        const back = new URL("http://127.0.0.1/back")
        back.searchParams.set("code", Redacted.value(canary("code")))
        back.searchParams.set("state", url.searchParams.get("state")!)
        return back
      })
  }),
  jwtBearer: OAuth2Session.jwtBearer(Effect.succeed(canary("assertion"))),
  tokenExchange: OAuth2Session.tokenExchange({
    subjectToken: Effect.succeed(canary("subject")),
    subjectTokenType: type,
    actorToken: Effect.succeed(canary("actor")),
    actorTokenType: type
  })
}

const clients = (key: CryptoKey): Readonly<Record<string, OAuth2Session.ClientAuth>> => ({
  none: OAuth2Session.none,
  secretBasic: OAuth2Session.secretBasic(canary("secret")),
  secretPost: OAuth2Session.secretPost(canary("secret")),
  privateKeyJwt: OAuth2Session.privateKeyJwt({ key, kid: "k1" }),
  mutualTls: OAuth2Session.mutualTls
})

const tokens = {
  access_token: "canary-access",
  refresh_token: "canary-refresh",
  expires_in: 3600
}

/** The whole request, as a server with verbose errors repeats it. */
const echoes = ({ form, received }: Asked): ReadonlyArray<string> =>
  [
    ...[...form.keys()].flatMap((name) => form.getAll(name)),
    received.headers.authorization ?? "",
    received.body.toString()
  ].filter((echo) => echo !== "")

/** One after the other: what a description can hold is limited. */
const echoing = () => {
  let n = 0
  return (asked: Asked) => {
    const all = echoes(asked)
    return all[n++ % all.length]!
  }
}

const answers: Readonly<Record<string, () => (asked: Asked) => Reply | Effect.Effect<Reply>>> = {
  "tokens": () => () => json(tokens),
  "tokens and a refusal of their renewal": () => ({ form }) =>
    form.get("grant_type") === "refresh_token" && form.get("refresh_token") === "canary-refresh"
      ? json({ error: "invalid_grant", error_description: form.get("refresh_token") }, 400)
      : json(tokens),
  "an id_token that is not accepted": () => () => json({ ...tokens, id_token: "e30.eyJpc3MiOiJjYW5hcnkifQ.canary" }),
  "an echo as the description": () => {
    const echo = echoing()
    return (asked) => json({ error: "invalid_request", error_description: `cannot use ${echo(asked)}` }, 400)
  },
  "an echo as the code": () => {
    const echo = echoing()
    return (asked) => json({ error: echo(asked) }, 400)
  },
  "an echo in a challenge": () => {
    const echo = echoing()
    return (asked) => {
      const error = echo(asked).slice(0, 99)
      return json({}, 401, { "www-authenticate": `Bearer error="${error}", error_description="${error}"` })
    }
  },
  "HTML": () => (asked) => ({ body: `<html>${echoes(asked).join()}</html>`, headers: { "content-type": "text/html" } }),
  "trouble": () => (asked) => json({ access_token: "canary-access", echo: echoes(asked) }, 503, { "retry-after": "9" }),
  "a redirect": () => (asked) => ({
    status: 307,
    headers: { location: `http://127.0.0.1:1/?${encodeURIComponent(echoes(asked).join())}` }
  }),
  "a cut answer": () => () => ({
    write: (response) => {
      response.writeHead(200, { "content-length": "1000" })
      response.write(`{"access_token":"canary-access`)
      setImmediate(() => response.destroy())
    }
  }),
  "nothing": () => () => Effect.never
}

/** Everything that is visible of a value, and everything that a log prints of an exit. */
const shown = (value: unknown): string => {
  const cause = Exit.isExit(value) && Exit.isFailure(value) ? Cause.pretty(value.cause) : ""
  return [inspect(value, { depth: 12, showHidden: true }), String(value), JSON.stringify(value) ?? "", cause].join("\n")
}

/** The names of grants and client authentications: each of both in the quick form, all pairs in the full form. */
const pairs = (key: CryptoKey) =>
  Object.keys(grants).flatMap((grant, i) =>
    Object.keys(clients(key)).flatMap((client, j) => form !== "quick" || i % 5 === j ? [[grant, client] as const] : [])
  )

describe("secrets", () => {
  it.scoped.each(Object.keys(answers))(
    "O4: are in no log, span, metric, error or session, for any grant and client: the server answers with %s",
    (answer) =>
      Effect.gen(function*() {
        const { privateKey } = yield* keyPair
        const { d } = yield* Effect.promise(() => crypto.subtle.exportKey("jwk", privateKey))
        const dpop = yield* keyPair
        const bound = yield* Effect.promise(() => crypto.subtle.exportKey("jwk", dpop.privateKey))
        for (const [grant, client] of pairs(privateKey)) {
          const reply = answers[answer]!()
          const device = { device_code: "canary-device", user_code: "ABC", verification_uri: "http://x", interval: 1 }
          const server = yield* authorizationServer((asked) =>
            asked.path === "/device" ? json({ ...device, expires_in: 60 }) : reply(asked)
          )
          const used = Effect.gen(function*() {
            const session = yield* OAuth2Session.make({
              issuer: server.url,
              clientId: "app",
              clientAuth: clients(privateKey)[client],
              grant: grants[grant]!,
              allowInsecureRequests: true,
              timeout: "5 seconds",
              retry: Schedule.stop,
              cooldown: 0,
              ...(client === "none" && answer !== "tokens" ? { dpop } : {})
            })
            const exits: Array<unknown> = []
            for (let i = 0; i < 4; i++) {
              exits.push(yield* Effect.exit(Effect.flatMap(session.current, session.refresh)), yield* session.status)
            }
            yield* session.end
            return [...exits, session]
          })
          const fiber = yield* Effect.fork(Effect.scoped(watched(used)))
          yield* eventually(Effect.map(TestClock.adjust("1 second"), () => fiber.unsafePoll() !== null))
          const { exit, seen } = yield* Fiber.join(fiber)
          assert.isTrue(Exit.isSuccess(exit), String(exit))
          assert.isAbove(server.asked.length, 0)
          const basic = server.asked.map(({ received }) => received.headers.authorization?.slice("Basic ".length))
          const assertions = server.asked.map(({ form }) => form.get("client_assertion")?.split(".")[2])
          const secrets = ["canary", d, bound.d, ...basic, ...assertions].filter((secret) => secret !== undefined)
          for (const one of [...seen, ...(Exit.isSuccess(exit) ? exit.value : []), exit]) {
            const text = shown(one)
            for (const secret of secrets) assert.notInclude(text, secret, `${grant}, ${client}`)
          }
        }
      }).pipe(Effect.provide(FetchHttpClient.layer)),
    120_000
  )
})
