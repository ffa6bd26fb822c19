import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { assert, describe, it } from "@effect/vitest"
import { NodeLoopbackRedirect } from "effect-holdfast/node"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Session from "effect-holdfast/Session"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/TestClock"
import { createServer, get } from "node:http"
import type { AddressInfo } from "node:net"
import { type Asked, authorizationServer, json, metadataOf } from "./support/authorizationServer.js"
import { failureOf } from "./support/exits.js"
import { eventually, type Reply } from "./support/httpServer.js"
import { hasIpv6 } from "./support/tools.js"

const http = Effect.provide(FetchHttpClient.layer)

const options = { clientId: "app", allowInsecureRequests: true } as const

const tokens = json({ access_token: "canary-access", token_type: "Bearer", refresh_token: "canary-refresh" })

/** Lets virtual time pass until the fiber has ended. */
const passing = <A, E>(fiber: Fiber.RuntimeFiber<A, E>, step: "100 millis" | "1 second" = "1 second") =>
  Effect.zipRight(
    eventually(Effect.map(TestClock.adjust(step), () => fiber.unsafePoll() !== null)),
    Fiber.await(fiber)
  )

describe("the device flow", () => {
  const device = (more: Record<string, unknown> = {}) =>
    json({
      device_code: "canary-device",
      user_code: "ABCD-EFGH",
      verification_uri: "https://example.com/device",
      expires_in: 1800,
      ...more
    })
  const pending = json({ error: "authorization_pending" }, 400)

  const scenario = (answers: ReadonlyArray<Reply>, more?: Record<string, unknown>) =>
    Effect.gen(function*() {
      let n = 0
      const polls: Array<number> = []
      const clock = yield* Effect.clock
      const server = yield* authorizationServer(({ path }) => {
        if (path === "/device") return device(more)
        polls.push(clock.unsafeCurrentTimeMillis())
        return answers[Math.min(n++, answers.length - 1)]!
      })
      const prompts: Array<OAuth2Session.DevicePrompt> = []
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        scope: "a",
        resource: "https://api.example.com",
        grant: OAuth2Session.deviceCode((prompt) => Effect.sync(() => prompts.push(prompt)))
      })
      const fiber = yield* Effect.fork(session.current)
      const exit = yield* passing(fiber)
      return { exit, polls, prompts, server, session }
    })

  it.scoped("O5: shows the code, polls as often as allowed, and waits for a person longer than for a renewal", () =>
    Effect.gen(function*() {
      const { exit, polls, prompts, server } = yield* scenario([...Array.from({ length: 30 }, () => pending), tokens])
      assert.strictEqual(
        Redacted.value(Exit.isSuccess(exit) ? exit.value.value.accessToken : Redacted.make("")),
        "canary-access"
      )
      assert.deepStrictEqual(new Set(server.asked.map(({ form }) => form.get("resource"))).size, 1)
      assert.strictEqual(server.asked.at(-1)!.form.get("resource"), "https://api.example.com")
      assert.deepInclude(prompts, {
        userCode: "ABCD-EFGH",
        verificationUri: "https://example.com/device",
        verificationUriComplete: undefined,
        expiresAt: prompts[0]!.expiresAt
      })
      assert.strictEqual(prompts.length, 1)
      for (let i = 1; i < polls.length; i++) assert.isAtLeast(polls[i]! - polls[i - 1]!, 5_000)
      assert.isAbove(polls.at(-1)!, 150_000)
      const { form } = server.asked[1]!
      assert.strictEqual(form.get("device_code"), "canary-device")
      assert.strictEqual(form.get("client_id"), "app")
    }).pipe(http))

  it.scoped("O5: takes interval and expires_in as strings, and the address by its older name", () =>
    Effect.gen(function*() {
      const more = { interval: "7", expires_in: "60", verification_uri: undefined, verification_url: "https://old" }
      const { exit, polls, prompts } = yield* scenario([pending], more)
      assert.strictEqual(prompts[0]!.verificationUri, "https://old")
      for (let i = 1; i < polls.length; i++) assert.isAtLeast(polls[i]! - polls[i - 1]!, 7_000)
      assert.isAtMost(polls.at(-1)!, prompts[0]!.expiresAt)
      assert.deepInclude(failureOf(exit), { _tag: "OAuth2Error", error: "expired_token" })
    }).pipe(http))

  it.scoped("O5: goes on if the wall clock is set while the user enters the code", () =>
    Effect.gen(function*() {
      const test = yield* Effect.clock
      let [ahead, polls] = [0, 0]
      const unsafeCurrentTimeMillis = () => test.unsafeCurrentTimeMillis() + ahead
      const clock: Clock.Clock = {
        [Clock.ClockTypeId]: test[Clock.ClockTypeId],
        unsafeCurrentTimeMillis,
        currentTimeMillis: Effect.sync(unsafeCurrentTimeMillis),
        unsafeCurrentTimeNanos: () => test.unsafeCurrentTimeNanos(),
        currentTimeNanos: test.currentTimeNanos,
        sleep: (duration) => test.sleep(duration)
      }
      const server = yield* authorizationServer(({ path }) => {
        if (path === "/device") return device()
        ahead = 7_200_000
        return polls++ < 3 ? pending : tokens
      })
      const signedIn = Effect.flatMap(
        OAuth2Session.make({ ...options, issuer: server.url, grant: OAuth2Session.deviceCode(() => Effect.void) }),
        (session) => session.current
      )
      const exit = yield* passing(yield* Effect.forkScoped(Effect.withClock(signedIn, clock)))
      assert.isTrue(Exit.isSuccess(exit))
    }).pipe(http))

  it.scoped("polls at most every second, whatever the server allows", () =>
    Effect.gen(function*() {
      const { polls } = yield* scenario([pending, pending, tokens], { interval: 0 })
      for (let i = 1; i < polls.length; i++) assert.isAtLeast(polls[i]! - polls[i - 1]!, 1_000)
    }).pipe(http))

  it.scoped("O5: polls more slowly for good after `slow_down`, and when the server has trouble", () =>
    Effect.gen(function*() {
      const slow = json({ error: "slow_down" }, 400)
      const { exit, polls } = yield* scenario([
        slow,
        pending,
        json({}, 500),
        json({}, 503, { "retry-after": "90" }),
        tokens
      ])
      assert.isTrue(Exit.isSuccess(exit))
      const gaps = polls.slice(1).map((at, i) => at - polls[i]!)
      for (const [i, least] of [10_000, 10_000, 20_000, 90_000].entries()) assert.isAtLeast(gaps[i]!, least)
    }).pipe(http))

  it.scoped("ends with the refusal of the person", () =>
    Effect.gen(function*() {
      const { exit } = yield* scenario([json({ error: "access_denied" }, 400)])
      assert.deepInclude(failureOf(exit), { _tag: "OAuth2Error", error: "access_denied" })
    }).pipe(http))

  it.scoped("does not wait for a prompt that goes on when it is interrupted", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(({ path }) => path === "/device" ? device() : tokens)
      const exit = yield* Effect.scoped(Effect.gen(function*() {
        const grant = OAuth2Session.deviceCode(() => Effect.uninterruptible(Effect.never))
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url, grant })
        return yield* passing(yield* Effect.fork(session.current))
      }))
      assert.isTrue(Exit.isSuccess(exit))
    }).pipe(http))

  it.scoped("is interrupted with its prompt when the session closes", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(({ path }) => path === "/device" ? device() : pending)
      const shown = yield* Deferred.make<void>()
      const closed = yield* Deferred.make<void>()
      const fiber = yield* Effect.scoped(Effect.gen(function*() {
        const session = yield* OAuth2Session.make({
          ...options,
          issuer: server.url,
          grant: OAuth2Session.deviceCode(() =>
            Effect.zipRight(Deferred.succeed(shown, undefined), Effect.never).pipe(
              Effect.onInterrupt(() => Deferred.succeed(closed, undefined))
            )
          )
        })
        const fiber = yield* Effect.fork(session.current)
        yield* Deferred.await(shown)
        return fiber
      }))
      yield* Deferred.await(closed)
      assert.instanceOf(failureOf(yield* Fiber.await(fiber)), Session.SessionClosed)
    }).pipe(http))
})

describe("the authorization code flow", () => {
  const receiver = (comeBack: (url: URL) => URL | string) => ({
    redirectUri: "http://127.0.0.1/back",
    onAuthorize: (url: URL) => Effect.sync(() => comeBack(url))
  })
  const back = (url: URL, more: Record<string, string | undefined> = {}) => {
    const to = new URL(url.searchParams.get("redirect_uri")!)
    const all = { code: "canary-code", state: url.searchParams.get("state")!, ...more }
    for (const [name, value] of Object.entries(all)) if (value !== undefined) to.searchParams.set(name, value)
    return to
  }

  const signIn = (comeBack: (url: URL) => URL | string, more: Partial<OAuth2Session.Options> = {}) =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(({ path }) =>
        path === "/par" ? json({ request_uri: "urn:x:1", expires_in: 60 }, 201) : tokens
      )
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        scope: ["a", "b"],
        grant: OAuth2Session.authorizationCode(receiver(comeBack)),
        ...more,
        persist: undefined
      })
      return { server, exit: yield* Effect.exit(session.current) }
    })

  it.scoped("uses PKCE, and exchanges the code with the verifier", () =>
    Effect.gen(function*() {
      let asked: URL | undefined
      const { exit, server } = yield* signIn((url) => back(asked = url))
      assert.isTrue(Exit.isSuccess(exit))
      const { form } = server.asked[0]!
      assert.strictEqual(form.get("code"), "canary-code")
      assert.strictEqual(form.get("redirect_uri"), "http://127.0.0.1/back")
      const digest = yield* Effect.promise(() =>
        crypto.subtle.digest("SHA-256", new TextEncoder().encode(form.get("code_verifier")!))
      )
      const sent = asked!.searchParams
      assert.strictEqual(sent.get("code_challenge"), Buffer.from(digest).toString("base64url"))
      assert.strictEqual(sent.get("code_challenge_method"), "S256")
      assert.strictEqual(sent.get("scope"), "a b")
      assert.strictEqual(sent.get("response_type"), "code")
      assert.isNull(sent.get("nonce"))
    }).pipe(http))

  it.scoped("pushes its request, if the option says so", () =>
    Effect.gen(function*() {
      let asked: URL | undefined
      let state = ""
      const grant = OAuth2Session.authorizationCode({
        redirectUri: "http://127.0.0.1/back",
        onAuthorize: (url, given) => {
          asked = url
          state = given
          return Effect.succeed(`http://127.0.0.1/back?code=canary-code&state=${given}`)
        },
        pushed: true,
        parameters: { prompt: "consent" }
      })
      const { exit, server } = yield* signIn(() => "", { grant })
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual([...asked!.searchParams], [["client_id", "app"], ["request_uri", "urn:x:1"]])
      const { form } = server.asked[0]!
      assert.strictEqual(form.get("state"), state)
      assert.strictEqual(form.get("prompt"), "consent")
    }).pipe(http))

  it.scoped("opens no address but https, and http if that is allowed", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<readonly [endpoint: string, allowInsecureRequests: boolean, isOpened: boolean]> = [
        ["https://a.example/authorize", false, true],
        ["http://a.example/authorize", true, true],
        ["http://a.example/authorize", false, false],
        ["file:///usr/bin/canary", true, false],
        ["javascript:canary()", true, false],
        ["ms-canary:open", true, false]
      ]
      for (const [authorization_endpoint, allowInsecureRequests, isOpened] of cases) {
        let opened = false
        const session = yield* OAuth2Session.make({
          ...options,
          allowInsecureRequests,
          issuer: { ...metadataOf("https://127.0.0.1:1"), authorization_endpoint },
          grant: OAuth2Session.authorizationCode(receiver((url) => {
            opened = true
            return back(url, { code: undefined, error: "access_denied" })
          }))
        })
        const failure = yield* Effect.flip(session.current)
        assert.deepInclude(failure, { error: isOpened ? "access_denied" : "invalid_response" }, authorization_endpoint)
        assert.notInclude(String(failure) + JSON.stringify(failure), "canary")
        assert.strictEqual(opened, isOpened, authorization_endpoint)
      }
    }).pipe(http))

  it.scoped("O5: uses no code that belongs to another request or server, and none if no code comes", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<readonly [(url: URL) => URL | string, string]> = [
        [(url) => back(url, { state: "canary-other" }), "invalid_response"],
        [(url) => back(url, { state: undefined }), "invalid_response"],
        [(url) => back(url, { iss: "https://evil.example" }), "invalid_response"],
        [(url) => back(url, { code: undefined }), "invalid_response"],
        [(url) => back(url, { code: undefined, error: "access_denied" }), "access_denied"],
        [() => "canary", "invalid_response"]
      ]
      for (const [comeBack, error] of cases) {
        const { exit, server } = yield* signIn(comeBack)
        const failure = failureOf(exit)
        assert.deepInclude(failure, { _tag: "OAuth2Error", error })
        assert.notInclude(String(failure) + JSON.stringify(failure), "canary")
        assert.strictEqual(server.asked.length, 0)
      }
    }).pipe(http))

  it.scoped("accepts the relative URL of a server's request, and a description that a log can show", () =>
    Effect.gen(function*() {
      const { exit } = yield* signIn((url) => back(url).href.slice("http://127.0.0.1".length))
      assert.isTrue(Exit.isSuccess(exit))
      const error_description = `no\n\u001b[31m access ${"x".repeat(600)}`
      const refused = yield* signIn((url) => back(url, { code: undefined, error: "access_denied", error_description }))
      assert.deepInclude(failureOf(refused.exit), { description: "no [31m access <redacted>" })
    }).pipe(http))

  it.scoped("O5: a person who answers just before the timeout is over leaves the whole timeout for the rest", () =>
    Effect.gen(function*() {
      const answering = HttpClient.make((request) =>
        Effect.delay(
          Effect.sync(() =>
            HttpClientResponse.fromWeb(request, Response.json({ access_token: "canary", token_type: "Bearer" }))
          ),
          "300 millis"
        )
      )
      const make = OAuth2Session.make({
        clientId: "app",
        issuer: metadataOf("https://example.com"),
        timeout: "2 seconds",
        grant: OAuth2Session.authorizationCode({
          redirectUri: "http://127.0.0.1/back",
          onAuthorize: (url) => Effect.delay(Effect.sync(() => back(url)), "1900 millis")
        })
      })
      const session = yield* Effect.provideService(make, HttpClient.HttpClient, answering)
      const exit = yield* passing(yield* Effect.fork(session.current), "100 millis")
      assert.isTrue(Exit.isSuccess(exit))
    }))

  it.scoped("O5: waits ten minutes for a person, and is not repeated by itself", () =>
    Effect.gen(function*() {
      let asked = 0
      const server = yield* authorizationServer(() => json({}, 500))
      const make = (onAuthorize: OAuth2Session.CodeReceiver["onAuthorize"]) =>
        OAuth2Session.make({
          ...options,
          issuer: server.url,
          grant: OAuth2Session.authorizationCode({ redirectUri: "http://127.0.0.1/back", onAuthorize })
        })
      const waiting = yield* make(() => Effect.zipRight(Effect.sync(() => asked++), Effect.never))
      const fiber = yield* Effect.fork(waiting.current)
      yield* eventually(Effect.sync(() => asked === 1))
      yield* TestClock.adjust("599 seconds")
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("1 second")
      assert.instanceOf(failureOf(yield* Fiber.await(fiber)), OAuth2Session.SignInRequired)
      const failing = yield* make((url) => Effect.sync(() => (asked++, back(url))))
      const failed = yield* passing(yield* Effect.fork(failing.current), "100 millis")
      assert.deepInclude(failureOf(failed), { error: "server_error" })
      assert.strictEqual(asked, 2)
      assert.strictEqual(server.asked.length, 4)
    }).pipe(http))

  it.scoped("is answered at a receiver on the loopback, which accepts one answer, with the right state", () =>
    Effect.gen(function*() {
      const replies: Array<readonly [number, string]> = []
      const get = (url: URL | string) =>
        Effect.promise(async () => {
          const response = await fetch(url)
          replies.push([response.status, await response.text()])
        })
      let redirectUri = ""
      const grant = OAuth2Session.authorizationCode(NodeLoopbackRedirect.make({
        path: "/callback",
        open: (url) =>
          Effect.gen(function*() {
            const right = back(url)
            redirectUri = right.origin
            yield* get(`${right.origin}/favicon.ico`)
            yield* get(back(url, { state: "guessed" }))
            yield* get(right.href.replace("127.0.0.1", "localhost"))
            yield* get(right)
            yield* get(right)
          })
      }))
      const { exit, server } = yield* signIn(() => "", { grant })
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(server.asked[0]!.form.get("redirect_uri"), `${redirectUri}/callback`)
      assert.deepStrictEqual(replies.map(([status]) => status), [404, 400, 400, 200, 400])
      assert.include(replies[3]![1], "You may close this window")
      assert.notInclude(replies.map(([, text]) => text).join(), "canary")
      const closed = yield* Effect.promise(() => fetch(redirectUri).then(() => false, () => true))
      assert.isTrue(closed)
    }).pipe(http))

  it.scoped("is presented once if it was refused, whatever is retried", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ error: "invalid_grant" }, 400))
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        retry: Schedule.recurs(3),
        grant: OAuth2Session.authorizationCode(receiver((url) => back(url)))
      })
      assert.deepInclude(yield* Effect.flip(session.current), { error: "invalid_grant" })
      assert.strictEqual(server.asked.length, 1)
    }).pipe(http))

  it.scoped("is refused by a standard code, even if the client's secret is part of that code", () =>
    Effect.gen(function*() {
      const codes = ["invalid_grant", "not-for-a-grant"]
      const server = yield* authorizationServer(() => json({ error: codes.shift() }, 400))
      const session = OAuth2Session.make({
        ...options,
        issuer: server.url,
        clientAuth: OAuth2Session.secretPost(Redacted.make("grant")),
        grant: OAuth2Session.authorizationCode(receiver((url) => back(url)))
      })
      const errors = yield* Effect.replicateEffect(Effect.flatMap(session, ({ current }) => Effect.flip(current)), 2)
      assert.deepInclude(errors[0], { error: "invalid_grant" })
      assert.deepInclude(errors[1], { error: "invalid_response" })
    }).pipe(http))

  it.scoped("is answered while the browser stays open, and at a path in another spelling", () =>
    Effect.gen(function*() {
      let came = new URL("http://127.0.0.1")
      let page: Promise<Response> | undefined
      const isClosed = yield* Deferred.make<void>()
      const receiver = yield* NodeLoopbackRedirect.make({
        path: "/zurück kommen",
        open: () =>
          Effect.suspend(() => {
            page = fetch(came)
            return Effect.onInterrupt(Effect.never, () => Deferred.succeed(isClosed, undefined))
          })
      })
      came = new URL("?state=s&code=canary-code", receiver.redirectUri)
      const signIn = yield* Effect.fork(receiver.onAuthorize(new URL("http://127.0.0.1/authorize"), "s"))
      assert.strictEqual(String(yield* Effect.flatten(passing(signIn))), came.href)
      yield* Deferred.await(isClosed)
      const again = yield* Effect.promise(() => Promise.all([page, fetch(came)]))
      assert.deepStrictEqual(again.map((response) => response?.status), [200, 400])
    }))

  it.scoped("does not wait for a browser that goes on when it is interrupted", () =>
    Effect.gen(function*() {
      let came = new URL("http://127.0.0.1")
      const receiver = yield* NodeLoopbackRedirect.make({
        open: () => Effect.zipRight(Effect.promise(() => fetch(came)), Effect.uninterruptible(Effect.never))
      })
      came = new URL("?state=s&code=canary-code", receiver.redirectUri)
      const signIn = yield* Effect.fork(receiver.onAuthorize(new URL("http://127.0.0.1/authorize"), "s"))
      assert.strictEqual(String(yield* Effect.flatten(passing(signIn))), came.href)
    }))

  it.scoped.each(["127.0.0.1", ...hasIpv6 ? ["[::1]"] : []])(
    "comes back to localhost by the address %s, and what listens there already is no receiver",
    (address) =>
      Effect.gen(function*() {
        const receiver = yield* NodeLoopbackRedirect.make({
          host: "localhost",
          open: ({ pathname, port, search }) =>
            Effect.promise(() =>
              new Promise<void>((resolve, reject) => {
                const host = address.replace(/[[\]]/g, "")
                get({ host, port, path: pathname + search, headers: { host: `localhost:${port}` } }, (response) =>
                  void response.resume().on("end", resolve)).on("error", reject)
              })
            )
        })
        const came = new URL("?state=s&code=canary-code", receiver.redirectUri)
        assert.strictEqual(came.hostname, "localhost")
        assert.strictEqual(String(yield* receiver.onAuthorize(came, "s")), came.href)
        const taken = NodeLoopbackRedirect.make({ host: "localhost", port: Number(came.port) })
        assert.include((yield* Effect.flip(taken)).message, "EADDRINUSE")
      })
  )

  it.scoped.runIf(hasIpv6)(
    "does not begin on localhost if another program could get the code on the other address",
    () =>
      Effect.gen(function*() {
        const other = createServer()
        yield* Effect.acquireRelease(
          Effect.async<void>((resume) => void other.listen({ host: "::1", port: 0 }, () => resume(Effect.void))),
          () => Effect.sync(() => other.close())
        )
        const { port } = other.address() as AddressInfo
        const error = yield* Effect.flip(NodeLoopbackRedirect.make({ host: "localhost", port }))
        assert.include(error.message, `[::1]:${port}`)
      })
  )

  it.scoped("comes back to port 80, which a browser does not name", (test) =>
    Effect.gen(function*() {
      const statuses: Array<number> = []
      const made = yield* Effect.either(NodeLoopbackRedirect.make({
        port: 80,
        path: "/callback",
        open: ({ search }) =>
          Effect.promise(async () => {
            statuses.push((await fetch(`http://127.0.0.1/callback${search}`)).status)
          })
      }))
      if (Either.isLeft(made)) {
        assert.match(made.left.message, /EACCES|EADDRINUSE/)
        return test.skip("port 80 is taken or forbidden")
      }
      yield* made.right.onAuthorize(new URL("https://a.example/?state=s&code=canary-code"), "s")
      assert.deepStrictEqual(statuses, [200])
    }))

  it("does not begin with a receiver whose options are invalid", () => {
    const nonsense: ReadonlyArray<readonly [string, unknown]> = [
      ["port", 65_536],
      ["port", -1],
      ["port", 1.5],
      ["path", "callback"],
      ["path", ""],
      ["path", "/callback?a=b"],
      ["path", "/callback#a"],
      ["host", "example.com"],
      ["open", null]
    ]
    for (const [option, value] of nonsense) {
      try {
        void NodeLoopbackRedirect.make({ [option]: value })
        assert.fail(`${option} ${String(value)} is accepted`)
      } catch (error) {
        assert.deepInclude(error, { _tag: "InvalidOptions", option, value })
      }
    }
    assert.throws(() => NodeLoopbackRedirect.make(null as never), "options: must be an object, got null")
  })
})

describe("other grants", () => {
  it.scoped("an assertion is made for each try, and a refused one is SignInRequired", () =>
    Effect.gen(function*() {
      let n = 0
      const replies = [json({}, 500), json({ access_token: "canary-access" }), json({ error: "invalid_grant" }, 400)]
      const server = yield* authorizationServer(() => replies[server_asked++]!)
      let server_asked = 0
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        grant: OAuth2Session.jwtBearer(Effect.sync(() => Redacted.make(`canary-assertion-${++n}`)))
      })
      const fiber = yield* Effect.fork(session.current)
      const first = yield* Effect.flatten(passing(fiber, "100 millis"))
      const error = yield* Effect.flip(session.refresh(first))
      assert.instanceOf(error, OAuth2Session.SignInRequired)
      assert.deepStrictEqual(server.asked.map(({ form }) => form.get("assertion")), [
        "canary-assertion-1",
        "canary-assertion-2",
        "canary-assertion-3"
      ])
    }).pipe(http))

  it.scoped("an assertion that was refused after the timeout is followed by a new one", () =>
    Effect.gen(function*() {
      let n = 0
      const held = yield* Deferred.make<void>()
      const server = yield* authorizationServer(() =>
        n === 2
          ? Effect.as(Deferred.await(held), json({ error: "invalid_grant" }, 400))
          : json({ access_token: `canary-access-${n}`, expires_in: 60 })
      )
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        refreshAhead: 0,
        timeout: "5 seconds",
        grant: OAuth2Session.jwtBearer(Effect.sync(() => Redacted.make(`canary-assertion-${++n}`)))
      })
      const first = yield* session.current
      const late = yield* Effect.fork(Effect.flip(session.refresh(first)))
      yield* eventually(Effect.sync(() => server.asked.length === 2))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(late))._tag, "RefreshTimeout")
      yield* Deferred.succeed(held, undefined)
      yield* eventually(Effect.map(session.status, (status) => status._tag === "Failing" && !status.serving))
      yield* TestClock.adjust("1 minute")
      const { value } = yield* session.current
      assert.strictEqual(Redacted.value(value.accessToken), "canary-access-3")
    }).pipe(http))

  it.scoped("a token is exchanged for another", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() =>
        json({ access_token: "canary-access", token_type: "N_A", issued_token_type: "urn:x" })
      )
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        audience: "orders",
        grant: OAuth2Session.tokenExchange({
          subjectToken: Effect.succeed(Redacted.make("canary-subject")),
          subjectTokenType: "urn:ietf:params:oauth:token-type:access_token",
          actorToken: Effect.succeed(Redacted.make("canary-actor")),
          actorTokenType: "urn:ietf:params:oauth:token-type:jwt"
        })
      })
      yield* session.current
      const { form } = server.asked[0] as Asked
      assert.deepStrictEqual(Object.fromEntries(form), {
        grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
        client_id: "app",
        audience: "orders",
        subject_token: "canary-subject",
        subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
        actor_token: "canary-actor",
        actor_token_type: "urn:ietf:params:oauth:token-type:jwt"
      })
    }).pipe(http))

  it.scoped("a client may sign its own assertion, with the session's clock", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 hour")
      const key = yield* Effect.promise(() =>
        crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"])
      )
      const server = yield* authorizationServer(() => tokens)
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        clientAuth: OAuth2Session.privateKeyJwt({ key: key.privateKey, kid: "k1", header: { "x5t#S256": "t" } }),
        grant: OAuth2Session.clientCredentials
      })
      yield* session.current
      const [header, payload] = server.asked[0]!.form.get("client_assertion")!.split(".").map((part, i) =>
        i < 2 ? JSON.parse(Buffer.from(part, "base64url").toString()) : undefined
      )
      assert.deepStrictEqual(header, { alg: "ES256", kid: "k1", "x5t#S256": "t" })
      assert.strictEqual(payload.iat, Math.floor((yield* Clock.currentTimeMillis) / 1000))
      assert.strictEqual(payload.aud, server.url)
    }).pipe(http))

  it.scoped("a client with a certificate uses the server's endpoints for mutual TLS", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => tokens)
      const mtls = yield* authorizationServer(() => tokens)
      const issuer = {
        issuer: server.url,
        token_endpoint: `${server.url}/token`,
        mtls_endpoint_aliases: { token_endpoint: `${mtls.url}/token` }
      }
      const session = yield* OAuth2Session.make({
        ...options,
        issuer,
        clientAuth: OAuth2Session.mutualTls,
        grant: OAuth2Session.clientCredentials
      })
      yield* session.current
      assert.strictEqual(server.asked.length, 0)
      assert.strictEqual(mtls.asked[0]!.form.get("client_id"), "app")
    }).pipe(http))
})
