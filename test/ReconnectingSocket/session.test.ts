import { assert, describe } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import type * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { connected, dial, dialing, ofTag, pass, serving, settle, steady, test } from "../support/reconnectingSockets.js"

describe("a session", () => {
  const signed = (renew: (n: number) => Effect.Effect<string, string> = (n) => Effect.succeed(`v${n}`)) => {
    let calls = 0
    const attach = (request: WebSocketDialer.DialRequest, token: string) => ({
      ...request,
      headers: { authorization: token }
    })
    return Effect.map(
      Session.make({
        acquire: Effect.succeed("v0"),
        renew: () => Effect.suspend(() => renew(++calls))
      }),
      (session) => ({ session, attach, calls: () => calls })
    )
  }
  const tokenOf = ({ request }: WebSocketDialer.Attempt) => (request.headers as Record<string, string>)["authorization"]

  const refusals: Record<string, (attempt: WebSocketDialer.Attempt) => Effect.Effect<void>> = {
    "an upgrade refused with 401": ({ refuse }) => refuse(401),
    "a close with 4401": ({ open }) => Effect.flatMap(open(), ({ close }) => Effect.zipRight(settle, close(4401)))
  }
  for (const [what, refuse] of Object.entries(refusals)) {
    test(`W11: is refreshed once after ${what}, for 100 sockets and 200 callers, and all dial immediately`, () =>
      Effect.gen(function*() {
        const { attach, calls, session } = yield* signed((n) => Effect.delay(Effect.succeed(`v${n}`), "20 millis"))
        const server = yield* serving
        const sockets = yield* Effect.forEach(
          Array.from({ length: 100 }),
          () => ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
        )
        const stale = yield* session.current
        const first = yield* Effect.forEach(sockets, () => server.next)
        assert.deepStrictEqual(new Set(first.map(tokenOf)), new Set(["v0"]))
        yield* Effect.forEach(first, (attempt) => refuse(attempt), { concurrency: "unbounded" })
        const callers = yield* Effect.fork(
          Effect.all(Array.from({ length: 200 }, () => session.refresh(stale)), { concurrency: "unbounded" })
        )
        yield* pass(20)
        const second = yield* Effect.forEach(sockets, () => server.next)
        assert.deepStrictEqual(new Set(second.map(tokenOf)), new Set(["v1"]))
        assert.deepStrictEqual(new Set((yield* Fiber.join(callers)).map(({ value }) => value)), new Set(["v1"]))
        assert.strictEqual(calls(), 1)
        assert.strictEqual(server.times.at(-1), 20)
      }))

    test(`W13: whose fresh value is refused too (${what}) backs off, and is refreshed again`, () =>
      Effect.gen(function*() {
        const { attach, calls, session } = yield* signed()
        const { server } = yield* dialing(
          ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
        )
        const tokens: Array<string | undefined> = []
        for (const delay of [0, 1000, 2000, 4000]) {
          const attempt = yield* server.next
          tokens.push(tokenOf(attempt))
          yield* refuse(attempt)
          yield* settle
          if (delay > 0) {
            yield* pass(delay - 1)
            assert.lengthOf(server.unanswered, 0)
            yield* pass(1)
          }
        }
        tokens.push(tokenOf(yield* server.next))
        assert.deepStrictEqual(tokens, ["v0", "v1", "v2", "v3", "v4"])
        assert.strictEqual(calls(), 4)
        assert.deepStrictEqual(server.times, [0, 0, 1000, 3000, 7000])
      }))
  }

  test("W11: is refreshed immediately again after a connection that was stable", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      const { server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* server.refuse(401)
      const peer = yield* server.open
      yield* pass(30_000)
      yield* peer.close(4401)
      assert.strictEqual(tokenOf(yield* server.next), "v2")
      assert.deepStrictEqual(server.times, [0, 0, 30_000])
    }))

  test("W11: that another user has already refreshed is not refreshed again", () =>
    Effect.gen(function*() {
      const { attach, calls, session } = yield* signed()
      const { peer, server } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* session.refresh(yield* session.current)
      yield* peer.close(4401)
      assert.strictEqual(tokenOf(yield* server.next), "v1")
      assert.strictEqual(calls(), 1)
    }))

  test("W11: is asked for its current value by each dial", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      const { peer, server } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* session.refresh(yield* session.current)
      yield* peer.reset
      yield* pass(1000)
      assert.strictEqual(tokenOf(yield* server.next), "v1")
    }))

  test("W11: whose refresh fails is a failed attempt, and is asked again after the delay", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed((n) => n === 1 ? Effect.fail("not now") : Effect.succeed(`v${n}`))
      const { events, server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* server.refuse(401)
      assert.lengthOf(server.unanswered, 0)
      assert.deepInclude(ofTag(events, "Waiting")[0]!.failure as object, { _tag: "DialError", cause: "not now" })
      yield* pass(1000)
      assert.strictEqual(tokenOf(yield* server.next), "v2")
    }))

  test("W11: that is closed makes the socket fail", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { attach, session } = yield* Scope.extend(signed(), scope)
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      yield* peer.reset
      yield* pass(1000)
      const error = yield* Effect.flip(socket.awaitOpen)
      assert.strictEqual(error._tag, "SocketFailed")
      assert.deepInclude((error as ReconnectingSocket.SocketFailed).failure.cause as object, { _tag: "SessionClosed" })
      yield* pass(3_600_000)
      assert.lengthOf(server.times, 1)
    }))

  test("W11: is refreshed if `rejected` says so, and not otherwise", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        session: {
          session,
          attach,
          rejected: (failure) => failure._tag === "ConnectionClosed" && failure.code === 4003
        }
      }))
      yield* server.refuse(401)
      yield* pass(1000)
      const attempt = yield* server.next
      assert.strictEqual(tokenOf(attempt), "v0")
      yield* Effect.flatMap(attempt.open(), ({ close }) => Effect.zipRight(settle, close(4003)))
      assert.strictEqual(tokenOf(yield* server.next), "v1")
    }))

  test("W11: has its value attached to the request that an effect gives, for each attempt", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      let n = 0
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial: Effect.sync(() => ({ url: `ws://test/${n++}` })),
        backoff: steady,
        session: { session, attach }
      }))
      yield* server.refuse(401)
      const { request } = yield* server.next
      assert.deepInclude(request as object, { url: "ws://test/1", headers: { authorization: "v1" } })
    }))
})
