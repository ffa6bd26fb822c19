import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import {
  acknowledge,
  connected,
  dial,
  dialing,
  heard,
  isDone,
  ofTag,
  onWires,
  pass,
  recorded,
  settle,
  steady,
  tagsOf,
  test,
  Wire
} from "../support/reconnectingSockets.js"

describe("a replacement", () => {
  const renewing = { dial, backoff: steady, renewAfter: "10 seconds" } as const

  /** Until the replacement has certainly begun. */
  const begin = pass(10_000)

  test("W19: that fails is logged by the failure's message alone, without the answer's headers", () =>
    Effect.suspend(() => {
      const logged: Array<unknown> = []
      const logger = Logger.make(({ message }) => void logged.push(message))
      return Effect.provide(
        Effect.gen(function*() {
          const { server } = yield* connected(ReconnectingSocket.make(renewing))
          yield* begin
          yield* server.refuse(503)
          yield* settle
          assert.deepInclude(logged, [
            "a socket could not replace its connection: ws://test refused the upgrade with 503"
          ])
        }),
        Logger.replace(Logger.defaultLogger, logger)
      )
    }))

  test("begins in the last tenth of `renewAfter`", () =>
    Effect.gen(function*() {
      const { server } = yield* connected(ReconnectingSocket.make({ ...renewing, renewAfter: "100 seconds" }))
      yield* pass(89_999)
      assert.lengthOf(server.times, 1)
      yield* pass(10_001)
      assert.isAtLeast(server.times.length, 2)
      assert.isTrue(server.times[1]! >= 90_000 && server.times[1]! <= 100_000)
    }))

  for (const when of ["dialed", "opened"] as const) {
    for (const how of ["ready", "refused", "closed"] as const) {
      test(`W15: that is being ${when} when the server closes the connection is kept, until it is ${how}`, () =>
        Effect.gen(function*() {
          const contexts: Array<ReconnectingSocket.DialContext> = []
          const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({
            ...renewing,
            dial: (context) => {
              contexts.push(context)
              return Effect.succeed(dial)
            },
            onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
          }))
          yield* peer.send("welcome")
          yield* settle
          yield* begin
          const attempt = yield* server.next
          const opened = when === "opened" ? yield* Effect.flatMap(attempt.open(), heard) : undefined
          yield* settle
          yield* socket.send("meanwhile")
          yield* settle
          yield* peer.close(4000, "logged in elsewhere")
          yield* settle
          assert.strictEqual((yield* socket.state)._tag, when === "opened" ? "Opening" : "Dialing")
          assert.lengthOf(ofTag(events, "Lost"), 1)
          yield* socket.send("then")
          if (how === "closed") {
            yield* socket.close()
            assert.strictEqual((yield* socket.state)._tag, "Closed")
            return assert.lengthOf(server.times, 2)
          }
          if (how === "refused") {
            yield* opened === undefined ? attempt.refuse(503) : opened.reset
            yield* pass(1000)
            assert.lengthOf(server.times, 3)
            // As with any connection: its loss is told, and its failure is what the next dial and the state are told.
            const tag = opened === undefined ? "DialError" : "ConnectionLost"
            assert.strictEqual(Option.getOrThrow(contexts[2]!.previous)._tag, tag)
            assert.strictEqual(ofTag(events, "Waiting")[0]!.failure._tag, tag)
            return assert.deepStrictEqual(
              ofTag(events, "Lost").map(({ failure }) => failure._tag),
              opened === undefined ? ["ConnectionClosed"] : ["ConnectionClosed", "ConnectionLost"]
            )
          }
          const second = opened ?? (yield* Effect.flatMap(attempt.open(), heard))
          yield* second.send("welcome")
          yield* settle
          assert.strictEqual((yield* socket.state)._tag, "Open")
          assert.deepStrictEqual([peer.got, second.got], [["login", "meanwhile"], ["login", "then"]])
          yield* pass(5000)
          assert.lengthOf(server.times, 2)
          assert.lengthOf(ofTag(events, "Lost"), 1)
          assert.deepStrictEqual(contexts, Array.from({ length: 2 }, () => ({ attempt: 0, previous: Option.none() })))
        }))
    }
  }

  /** Options with a session whose values are `token1`, `token2`, …, each a part of the URL. */
  const withTokens = Effect.suspend(() => {
    let tokens = 0
    const next = Effect.sync(() => `token${++tokens}`)
    return Effect.map(Session.make({ acquire: next, renew: () => next }), (session) => ({
      ...renewing,
      session: {
        session,
        attach: (request: WebSocketDialer.DialRequest, token: string) => ({ ...request, url: `ws://test/${token}` })
      }
    }))
  })

  test("W11: that fails after a close 4401 of the connection: the next dial is immediate, and has a fresh value", () =>
    Effect.gen(function*() {
      const { events, peer, server } = yield* connected(Effect.flatMap(withTokens, ReconnectingSocket.make))
      yield* begin
      const attempt = yield* server.next
      yield* peer.close(4401, "expired")
      yield* settle
      yield* attempt.refuse(503)
      yield* settle
      const { request } = yield* server.next
      assert.deepStrictEqual([attempt.request.url, request.url], ["ws://test/token1", "ws://test/token2"])
      assert.deepStrictEqual(ofTag(events, "Waiting"), [])
    }))

  test("W6: that fails after a final close of the connection ends the socket with that close", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make(renewing))
      yield* begin
      const attempt = yield* server.next
      yield* peer.close(1008, "policy")
      yield* settle
      yield* attempt.refuse(503)
      yield* settle
      const state = yield* socket.state
      assert.deepInclude(state, { _tag: "Closed" })
      assert.deepInclude((state as { readonly info: ReconnectingSocket.CloseInfo }).info, { code: 1008 })
      assert.lengthOf(server.times, 2)
    }))

  test("W6: that is refused with 401 after a final close of the connection ends the socket with that close", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(Effect.flatMap(withTokens, ReconnectingSocket.make))
      yield* begin
      const attempt = yield* server.next
      yield* peer.close(1008, "policy")
      yield* settle
      yield* attempt.refuse(401)
      yield* settle
      assert.deepInclude(yield* socket.state, { _tag: "Closed" })
      assert.lengthOf(server.times, 2)
    }))

  test("W11: that is closed with 4401 while it waits to take over: the next one has a fresh value", () =>
    Effect.gen(function*() {
      const options = yield* withTokens
      const { server, socket } = yield* connected(ReconnectingSocket.make({ ...options, acknowledge }))
      yield* socket.send("0")
      yield* begin
      const attempt = yield* server.next
      const second = yield* attempt.open()
      yield* settle
      yield* second.close(4401, "expired")
      yield* pass(1_000)
      const { request } = yield* server.next
      assert.deepStrictEqual([attempt.request.url, request.url], ["ws://test/token1", "ws://test/token2"])
    }))

  test("W3: that takes over from a stable connection that was lost: the next delay is the first one again", () =>
    Effect.gen(function*() {
      const options = yield* withTokens
      const { events, server } = yield* dialing(
        ReconnectingSocket.make({ ...options, renewAfter: "1 minute", heartbeat: false })
      )
      yield* server.refuse(401)
      for (const delay of [1_000, 2_000, 4_000]) {
        yield* server.refuse(503)
        yield* pass(delay)
      }
      const first = yield* server.open
      yield* pass(60_000)
      const attempt = yield* server.next
      yield* first.reset
      yield* settle
      const second = yield* attempt.open()
      yield* pass(1_000)
      // The refusal is the first one since a stable connection, so the answer is immediate.
      yield* second.close(4401, "expired")
      yield* settle
      const third = yield* server.open
      yield* third.reset
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ attempt }) => attempt), [1, 2, 3, 1])
    }))

  describe("that is ready while the lost connection is still being released", () => {
    const releasing = Effect.gen(function*() {
      const wires = [new Wire(), new Wire()] as const
      const urls: Array<string> = []
      const dialer = WebSocketDialer.WebSocketDialer.of({
        dial: ({ url }) =>
          Effect.suspend(() => {
            const wire = wires[urls.push(String(url)) - 1]
            if (wire === undefined) return Effect.never
            const slowly = wire === wires[0] ? Effect.sleep("1500 millis") : Effect.void
            return Effect.acquireRelease(
              Effect.succeed(wire.connection),
              ({ terminate }) => Effect.zipRight(slowly, terminate)
            )
          })
      })
      const options = yield* withTokens
      const socket = yield* Effect.provideService(
        ReconnectingSocket.make({ ...options, renewAfter: "5 seconds", heartbeat: false, acknowledge }),
        WebSocketDialer.WebSocketDialer,
        dialer
      )
      yield* Effect.addFinalizer(() => Effect.sync(() => wires.forEach((wire) => wire.reset())))
      const events = yield* recorded(socket.events)
      yield* pass(4_000)
      yield* socket.send("0")
      yield* pass(1_000)
      wires[0].reset()
      yield* settle
      return { events: events.all, socket, urls, wires }
    })

    it.scoped("takes over, and no other is dialed", () =>
      Effect.gen(function*() {
        const { socket, urls, wires } = yield* releasing
        yield* pass(1_600)
        assert.deepStrictEqual([urls.length, (yield* socket.state)._tag, wires[1].taken], [2, "Open", ["0"]])
      }))

    it.scoped("W11: and is closed with 4401 meanwhile: the next dial has a fresh value", () =>
      Effect.gen(function*() {
        const { events, urls, wires } = yield* releasing
        wires[1].over(new WebSocketDialer.ConnectionClosed({ code: 4401, reason: "expired" }))
        yield* pass(1_600)
        yield* pass(1_000)
        assert.deepStrictEqual(urls, ["ws://test/token1", "ws://test/token1", "ws://test/token2"])
        assert.lengthOf(ofTag(events, "Lost"), 1)
      }))
  })

  for (const steps of [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 30]) {
    for (const acknowledging of [false, true]) {
      const what = `${steps} steps${acknowledging ? ", with acknowledgements" : ""}`
      const readyInstead = Effect.gen(function*() {
        const wires = [new Wire(), new Wire()] as const
        const made = yield* onWires<string, string, never, never, WebSocketDialer.ConnectionFailure>(wires, {
          renewAfter: "5 seconds",
          heartbeat: false,
          backoff: steady,
          onOpen: ({ receive }) => receive,
          ...acknowledging ? { acknowledge } : {}
        })
        yield* settle
        wires[0].say("welcome")
        yield* pass(5_000)
        wires[0].reset()
        yield* settle
        assert.strictEqual((yield* made.socket.state)._tag, "Opening")
        wires[1].say("welcome")
        yield* Effect.repeatN(Effect.yieldNow(), steps)
        return { ...made, wires }
      })

      it.scoped(`W6: that became the connection, and is closed for good when it is ready, ends all (${what})`, () =>
        Effect.gen(function*() {
          const { events, socket, wires } = yield* readyInstead
          wires[1].over(new WebSocketDialer.ConnectionClosed({ code: 1008, reason: "no" }))
          yield* settle
          assert.strictEqual((yield* socket.state)._tag, "Closed")
          assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure._tag), [
            "ConnectionLost",
            "ConnectionClosed"
          ])
        }))

      it.scoped(`W7: that became the connection is closed with a close frame when it is ready (${what})`, () =>
        Effect.gen(function*() {
          const { socket, wires } = yield* readyInstead
          yield* socket.close(4001, "bye")
          assert.deepStrictEqual(wires[1].closed, [4001, "bye"])
        }))
    }
  }

  test("W3: for which a lost connection waits does not make that connection a stable one", () =>
    Effect.gen(function*() {
      let { events, peer, server } = yield* connected(
        ReconnectingSocket.make({ ...renewing, stableAfter: "15 seconds", heartbeat: false })
      )
      for (let round = 0; round < 3; round++) {
        yield* begin
        const attempt = yield* server.next
        yield* peer.reset
        yield* pass(8_000)
        yield* attempt.refuse(503)
        yield* pass(10_000)
        peer = yield* server.open
      }
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ attempt }) => attempt), [1, 2, 3])
    }))

  test("takes over when it is ready: no Lost, and the old connection is closed with 1000", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({
        ...renewing,
        onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
      }))
      const messages = yield* recorded(socket.messages)
      yield* peer.send("ok")
      yield* socket.subscribe({ open: "+gold" })
      yield* socket.send("0")
      yield* begin
      yield* socket.send("while it is dialed")
      yield* settle
      const second = yield* server.open
      yield* socket.send("while it opens")
      yield* settle
      assert.deepStrictEqual(peer.got, ["login", "+gold", "0", "while it is dialed", "while it opens"])
      assert.deepStrictEqual(second.got, ["login"])
      assert.strictEqual((yield* socket.state)._tag, "Open")
      yield* peer.send("from the old one")
      yield* second.send("ok")
      yield* settle
      assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 1000, reason: "" }))
      yield* second.send("from the new one")
      yield* socket.send("1")
      yield* settle
      assert.deepStrictEqual(second.got, ["login", "+gold", "1"])
      assert.deepStrictEqual(messages.all, ["from the old one", "from the new one"])
      assert.deepStrictEqual(ofTag(events, "Lost"), [])
      assert.lengthOf(ofTag(events, "Opened"), 2)
    }))

  test("is repeated after each `renewAfter`", () =>
    Effect.gen(function*() {
      const { events, server } = yield* connected(ReconnectingSocket.make(renewing))
      for (let n = 0; n < 5; n++) {
        yield* begin
        yield* server.open
      }
      assert.lengthOf(server.times, 6)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.lengthOf(ofTag(events, "Opened"), 6)
    }))

  test("W15: is given up if its last attempt is still being released when the connection is lost", () =>
    Effect.gen(function*() {
      let [isRefused, released]: [boolean, Effect.Effect<void>] = [false, Effect.void]
      const gate = yield* Deferred.make<void>()
      const dialer = yield* WebSocketDialer.WebSocketDialer
      // A fiber that has run a finalizer has other references than one that has not.
      const resolved = Effect.scoped(Effect.addFinalizer(() => Effect.void))
      const { peer, server, socket } = yield* Effect.provideService(
        connected(ReconnectingSocket.make({
          ...renewing,
          onOpen: () => isRefused ? Effect.fail("refused") : Effect.void
        })),
        WebSocketDialer.WebSocketDialer,
        {
          ...dialer,
          dial: (request) =>
            resolved.pipe(Effect.zipRight(dialer.dial(request)), Effect.zipLeft(Effect.addFinalizer(() => released)))
        }
      )
      ;[isRefused, released] = [true, Deferred.await(gate)]
      yield* begin
      yield* server.open
      yield* peer.reset
      yield* settle
      ;[isRefused, released] = [false, Effect.void]
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      yield* pass(1_000)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("neither loses nor repeats messages that are acknowledged meanwhile", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* begin
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      const second = yield* server.open
      yield* socket.send("1")
      yield* settle
      assert.deepStrictEqual(second.got, [])
      yield* peer.send("ack 0")
      yield* Fiber.join(delivering)
      yield* settle
      assert.deepStrictEqual([peer.got, second.got], [["0"], ["1"]])
    }))

  test("sends the messages again, before new ones, that were not acknowledged in time", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* begin
      yield* socket.send("0")
      yield* settle
      const second = yield* server.open
      yield* socket.send("1")
      yield* pass(2_000)
      assert.deepStrictEqual([peer.got, second.got], [["0"], ["0", "1"]])
      assert.lengthOf(ofTag(events, "Dropped"), 0)
      yield* second.send("ack 1")
      yield* socket.flush
    }))

  it.scoped("waits for the write in progress", () => {
    const wires = [new Wire({ isHeld: true }), new Wire()]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { renewAfter: "5 seconds", writeTimeout: "1 minutes" })
      yield* pass(4_000)
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      yield* socket.send("1")
      yield* pass(1_000)
      yield* pass(2_000)
      assert.deepStrictEqual(wires[1]!.taken, [])
      wires[0]!.isHeld = false
      wires[0]!.take()
      yield* Fiber.join(delivering)
      yield* settle
      assert.deepStrictEqual([wires[0]!.taken, wires[1]!.taken], [["0"], ["1"]])
    })
  })

  test("has the subscriptions that are added meanwhile, and not those that are removed", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ ...renewing, onOpen: ({ receive }) => receive })
      )
      yield* peer.send("ok")
      const scope = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+1", close: "-1" }), scope)
      yield* begin
      const second = yield* server.open
      yield* socket.subscribe({ open: "+2", close: "-2" })
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.deepStrictEqual(peer.got, ["+1", "+2", "-1"])
      yield* second.send("ok")
      yield* settle
      assert.deepStrictEqual(second.got, ["+2"])
    }))

  const failing: Record<string, (attempt: WebSocketDialer.Attempt) => Effect.Effect<unknown>> = {
    "is refused": ({ refuse }) => refuse(503),
    "is refused for good": ({ refuse }) => refuse(403),
    "is lost while it opens": ({ open }) => Effect.flatMap(open(), ({ reset }) => Effect.zipRight(settle, reset))
  }
  for (const [how, fail] of Object.entries(failing)) {
    test(`whose connection ${how} leaves the current one in place`, () =>
      Effect.gen(function*() {
        let opens = 0
        const { events, peer, server, socket } = yield* connected(
          ReconnectingSocket.make({
            ...renewing,
            onOpen: () => opens++ === 0 ? Effect.void : Effect.sleep("1 seconds")
          })
        )
        yield* begin
        yield* Effect.flatMap(server.next, fail)
        yield* settle
        assert.strictEqual((yield* socket.state)._tag, "Open")
        yield* socket.send("0")
        yield* settle
        assert.deepStrictEqual(peer.got, ["0"])
        assert.lengthOf(ofTag(events, "Lost"), 0)
        yield* pass(1000)
        assert.lengthOf(server.unanswered, how === "is refused for good" ? 0 : 1)
        if (how === "is refused for good") return
        const next = yield* server.open
        yield* pass(1000)
        yield* socket.send("1")
        yield* settle
        assert.deepStrictEqual(next.got, ["1"])
        assert.strictEqual((yield* peer.ended)._tag, "ConnectionClosed")
      }))
  }

  test("W15: is kept if the current connection breaks meanwhile, and no other is dialed", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make(renewing))
      yield* begin
      const given = yield* server.next
      yield* peer.reset
      yield* settle
      const next = yield* Effect.flatMap(given.open(), heard)
      yield* socket.send("0")
      yield* settle
      assert.deepStrictEqual(next.got, ["0"])
      assert.lengthOf(ofTag(events, "Lost"), 1)
      yield* pass(8_000)
      assert.lengthOf(server.times, 2)
    }))

  for (const how of ["end", "reconnect", "close", "scope"] as const) {
    const code = how === "scope" ? 1000 : 4123
    it.scoped(`W7: that logs in, since the connection was lost, is closed with the order's code (${how})`, () =>
      Effect.gen(function*() {
        const wires = [new Wire(), new Wire()]
        const order = { code: 4123, reason: "bye" }
        let logins = 0
        const ending = yield* Deferred.make<void>()
        const scope = yield* Scope.make()
        const { events, socket } = yield* Scope.extend(
          onWires(wires, {
            renewAfter: "10 seconds",
            onOpen: ({ end }) =>
              logins++ === 0
                ? Effect.void
                : Effect.zipRight(Deferred.await(ending), how === "end" ? end(order) : Effect.never)
          }),
          scope
        )
        yield* settle
        yield* begin
        wires[0]!.reset()
        yield* settle
        assert.strictEqual((yield* socket.state)._tag, "Opening")
        yield* Deferred.succeed(ending, undefined)
        if (how === "reconnect") yield* socket.reconnect(order)
        if (how === "close") yield* Effect.fork(socket.close(4123, "bye"))
        if (how === "scope") yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* settle
        assert.strictEqual(wires[1]!.closed?.[0], code)
        const isClosing = how === "close" || how === "scope"
        if (!isClosing) assert.lengthOf(ofTag(events, "Lost"), 2)
      }))
  }

  test("in progress when the socket is closed leaves no connection", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* begin
      yield* socket.send("0")
      yield* settle
      const second = yield* server.open
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      yield* pass(2_000)
      yield* Fiber.join(closing)
      yield* second.ended
      yield* pass(200_000)
      assert.lengthOf(server.times, 2)
    }))

  test("carries the session's current value, and a refused one is refreshed for the next try", () =>
    Effect.gen(function*() {
      let calls = 0
      const session = yield* Session.make({
        acquire: Effect.succeed("v0"),
        renew: () => Effect.sync(() => `v${++calls}`)
      })
      const attach = (request: WebSocketDialer.DialRequest, token: string) => ({
        ...request,
        headers: { authorization: token }
      })
      const { events, server } = yield* connected(
        ReconnectingSocket.make({ ...renewing, session: { session, attach } })
      )
      yield* begin
      yield* server.refuse(401)
      yield* pass(1000)
      const { open, request } = yield* server.next
      assert.deepStrictEqual(request.headers, { authorization: "v1" })
      yield* open()
      yield* settle
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.strictEqual(calls, 1)
    }))

  test("has a heartbeat as well", () =>
    Effect.gen(function*() {
      const { events, server } = yield* connected(ReconnectingSocket.make(renewing))
      yield* begin
      const second = yield* server.open
      yield* second.stall
      yield* pass(25_000)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
    }))

  it.scoped("ends the old connection that does not answer its close frame after two seconds", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      yield* onWires(wires, { renewAfter: "5 seconds", heartbeat: false })
      yield* pass(4_000)
      wires[0]!.isHeld = true
      yield* pass(1_000)
      assert.deepStrictEqual(wires[0]!.closed?.[0], 1000)
      assert.isFalse(wires[0]!.isTerminated)
      yield* pass(2_000)
      assert.isTrue(wires[0]!.isTerminated)
      assert.isFalse(wires[1]!.isTerminated)
    })
  })

  it.scoped("leaves an old connection open whose messages are not read, until its socket closes", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { renewAfter: "5 seconds", heartbeat: false, inbox: { capacity: 2 } })
      yield* pass(4_000)
      wires[0]!.isHeld = true
      for (const message of ["0", "1"]) wires[0]!.say(message)
      yield* pass(1_000)
      for (const message of ["2", "3"]) wires[0]!.say(message)
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* pass(2_000)
      assert.isTrue(yield* isDone(closing))
      assert.isDefined(wires[0]!.end)
      assert.isDefined(wires[1]!.end)
    })
  })

  it.scoped("is not repeated while the messages of an old connection are not read", () => {
    const wires = Array.from({ length: 30 }, () => new Wire())
    return Effect.gen(function*() {
      yield* onWires(wires, { renewAfter: "1 minute", inbox: { capacity: 2 } })
      yield* settle
      for (let minute = 0; minute < 20; minute++) {
        // Each peer has more to say, and answers a close frame only when it is read.
        for (const wire of wires) {
          wire.isHeld = true
          if (!wire.isPaused && wire.end === undefined && wire.listener !== undefined) wire.say("more")
        }
        yield* pass(60_000)
      }
      assert.isAtMost(wires.filter(({ end, listener }) => listener !== undefined && end === undefined).length, 2)
    })
  })

  it.scoped("delivers all messages of the old connection first, however slow the reader is", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires(wires, {
        renewAfter: "5 seconds",
        heartbeat: false,
        inbox: { capacity: 2 }
      })
      yield* pass(4_000)
      wires[0]!.isHeld = true
      for (const message of ["0", "1"]) wires[0]!.say(message)
      yield* pass(1_000)
      assert.deepStrictEqual(wires[0]!.closed?.[0], 1000)
      for (const message of ["2", "3"]) wires[0]!.say(message)
      yield* settle
      assert.isTrue(wires[0]!.isPaused)
      yield* pass(4_000)
      assert.isFalse(wires[0]!.isTerminated)
      const messages = yield* recorded(socket.messages)
      assert.isFalse(wires[0]!.isPaused)
      wires[0]!.say("4")
      yield* settle
      assert.deepStrictEqual(messages.all, ["0", "1", "2", "3", "4"])
      yield* pass(2_000)
      assert.isTrue(wires[0]!.isTerminated)
      assert.lengthOf(ofTag(events, "Lost"), 0)
    })
  })

  test("that ends just as it is ready is tried again after the backoff's delay", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* connected(
        ReconnectingSocket.make({ ...renewing, heartbeat: false, renewAfter: "100 seconds", acknowledge })
      )
      yield* socket.send("0")
      yield* pass(89_000)
      while (server.unanswered.length === 0) yield* pass(1_000)
      yield* Effect.flatMap(server.open, ({ reset }) => reset)
      yield* pass(2_000)
      yield* pass(1_000)
      assert.lengthOf(server.unanswered, 1)
      assert.lengthOf(ofTag(events, "Lost"), 0)
    }))

  test("W3: that ends just as it is ready, again and again, is tried after longer and longer delays", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(
        ReconnectingSocket.make({ ...renewing, heartbeat: false, renewAfter: "100 seconds", acknowledge })
      )
      yield* socket.send("0")
      yield* pass(100_000)
      for (const delay of [1_000, 2_000, 4_000, 8_000]) {
        yield* Effect.flatMap(server.open, ({ reset }) => reset)
        yield* pass(delay - 1)
        assert.lengthOf(server.unanswered, 0)
        yield* pass(1)
        assert.lengthOf(server.unanswered, 1)
      }
    }))

  test("that ends while it waits to take over does not hold the messages of the current connection", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* socket.send("0")
      yield* begin
      const second = yield* server.open
      yield* socket.send("1")
      yield* settle
      assert.deepStrictEqual(peer.got, ["0"])
      yield* second.reset
      yield* settle
      assert.deepStrictEqual(peer.got, ["0", "1"])
    }))

  it.scoped("W7: that waits to take over when the socket closes is closed with a close frame, too", () => {
    const wires = [new Wire(), new Wire()] as const
    return Effect.gen(function*() {
      const { socket } = yield* onWires<string, string>(wires, { renewAfter: "5 seconds", acknowledge })
      yield* pass(4_000)
      yield* socket.send("0")
      yield* pass(1_000)
      const closing = yield* Effect.fork(socket.close(4001, "bye"))
      yield* pass(2_000)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(wires.map(({ closed }) => closed), [[4001, "bye"], [4001, "bye"]])
    })
  })

  it.scoped("leaves a connection whose awaited answer still comes while the socket closes", () => {
    const wires = [new Wire(), new Wire()] as const
    return Effect.gen(function*() {
      const { socket } = yield* onWires<string, string>(wires, { renewAfter: "5 seconds", heartbeat: false })
      yield* pass(4_000)
      const asking = yield* Effect.fork(socket.request("ask", { reply: Option.some }))
      yield* pass(1_000)
      wires[1].isHeld = true
      yield* socket.send("0")
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      wires[0].say("answer")
      yield* settle
      wires[1].isHeld = false
      wires[1].take()
      yield* settle
      yield* Fiber.join(closing)
      assert.strictEqual(yield* Fiber.join(asking), "answer")
    })
  })

  it.scoped("W7: leaves a connection that still awaits answers: it gets a close frame when the socket closes", () => {
    const wires = [new Wire(), new Wire()] as const
    return Effect.gen(function*() {
      const { socket } = yield* onWires<string, string>(wires, { renewAfter: "5 seconds" })
      yield* pass(4_000)
      const reply = () => Option.none<string>()
      const asking = yield* Effect.fork(Effect.exit(socket.request("ask", { reply })))
      yield* pass(1_000)
      assert.deepStrictEqual(wires.map(({ closed, end }) => [closed, end]), [[undefined, undefined], [
        undefined,
        undefined
      ]])
      yield* socket.close(4001, "bye")
      const closed = (code: number, reason: string) => new WebSocketDialer.ConnectionClosed({ code, reason })
      assert.deepStrictEqual(wires.map(({ end }) => end), [closed(1000, ""), closed(4001, "bye")])
      assert.isTrue(Exit.isFailure(yield* Fiber.join(asking)))
    })
  })

  test("that is ready takes over immediately if the current connection is lost", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* socket.send("0")
      yield* begin
      const second = yield* server.open
      yield* socket.send("1")
      yield* peer.close(1001)
      yield* settle
      assert.deepStrictEqual([peer.got, second.got], [["0"], ["0", "1"]])
      assert.deepStrictEqual(tagsOf(events).slice(-2), ["Lost", "Opened"])
      assert.lengthOf(server.times, 2)
    }))
})
