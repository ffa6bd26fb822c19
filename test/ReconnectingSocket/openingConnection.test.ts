/** The connection that `onOpen` makes ready. */
import { assert, describe } from "@effect/vitest"
import type * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { ConnectionClosed } from "effect-holdfast/WebSocketDialer"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import { lossesOf, ofTag, opened, pass, recorded, settle, steady, test } from "../support/reconnectingSockets.js"

type Connection = ReconnectingSocket.OpeningConnection<string, string>

/** Waits for the message, and puts everything before it back. */
const waitingFor = (awaited: string) => ({ receive, unread }: Connection): Effect.Effect<void, unknown> =>
  Effect.flatMap(
    receive,
    (message) =>
      message === awaited
        ? Effect.void
        : Effect.zipRight(unread(message), waitingFor(awaited)({ receive, unread } as Connection))
  )

describe("find", () => {
  const digit = (message: string) => /[0-9]/.test(message) ? Option.some(Number(message)) : Option.none()

  test("W14: gives the value for the first message that its function accepts, and leaves those before it", () =>
    Effect.gen(function*() {
      const found: Array<number> = []
      const { peer, socket } = yield* opened({
        onOpen: ({ find, receive, unread }) =>
          Effect.gen(function*() {
            found.push(yield* find(digit), yield* find(digit))
            yield* Effect.flatMap(receive, unread)
            found.push(yield* find(digit))
          })
      })
      const messages = yield* recorded(socket.messages)
      for (const message of ["a", "1", "2", "b", "c", "3"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(found, [1, 2, 3])
      yield* peer.send("d")
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b", "c", "d"])
    }))

  test("W14: leaves its messages for `messages` even if the connection is lost", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ onOpen: ({ find }) => find(digit) })
      const messages = yield* recorded(socket.messages)
      for (const message of ["a", "b"]) yield* peer.send(message)
      yield* peer.close(1001)
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b"])
    }))

  test("W14: leaves its messages for `messages` even if the connection is lost and the inbox is full", () =>
    Effect.gen(function*() {
      let logins = 0
      const { peer, server, socket } = yield* opened({
        inbox: { capacity: 1 },
        onOpen: ({ find }) => logins++ === 0 ? Effect.void : find(digit)
      })
      yield* peer.send("a")
      yield* settle
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      yield* next.send("b")
      yield* settle
      yield* next.reset
      yield* pass(2_000)
      const messages = yield* recorded(socket.messages)
      const last = yield* server.open
      for (const message of ["1", "c"]) {
        yield* last.send(message)
        yield* settle
      }
      assert.deepStrictEqual(messages.all, ["a", "b", "c"])
    }))

  test("W14: leaves its messages for `messages` even if the connection was to replace another one", () =>
    Effect.gen(function*() {
      let logins = 0
      const { peer, server, socket } = yield* opened({
        renewAfter: "10 seconds",
        onOpen: ({ find }) => logins++ === 0 ? Effect.void : find(digit)
      })
      const messages = yield* recorded(socket.messages)
      yield* pass(10_000)
      const replacement = yield* server.open
      yield* replacement.send("a")
      yield* settle
      yield* replacement.reset
      yield* settle
      yield* peer.send("b")
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b"])
    }))

  test("W13: a login receives any number of messages after one that it has left", () =>
    Effect.gen(function*() {
      const long = "x".repeat(1024 * 1024)
      const login = ({ find, receive, unread }: Connection) =>
        Effect.gen(function*() {
          yield* Effect.flatMap(receive, unread)
          yield* find(digit)
          while ((yield* receive) !== "end");
        })
      const { events, peer, socket } = yield* opened({ onOpen: login })
      const messages = yield* recorded(socket.messages)
      for (const message of ["left", "left, too", "1", ...Array.from({ length: 20 }, () => long), "end", "then"]) {
        yield* peer.send(message)
        yield* settle
      }
      assert.deepStrictEqual([messages.all, lossesOf(events)], [["left", "left, too", "then"], []])
    }))

  test("W13: finds an answer after more messages than the inbox holds", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ inbox: { capacity: 2 }, onOpen: ({ find }) => find(digit) })
      for (const message of ["a", "b", "c", "d", "1"]) {
        yield* peer.send(message)
        yield* settle
      }
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W18: a function that throws fails the login", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* opened({
        onOpen: ({ find }) =>
          find(() => {
            throw new Error("no")
          })
      })
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(lossesOf(events), ["OnOpenFailed"])
    }))
})

describe("unread", () => {
  test("W14: leaves messages for `messages`, before those that were not received, in the order of the calls", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({
        onOpen: (connection) => Effect.zipRight(waitingFor("RESUMED")(connection), Effect.sleep("1 seconds"))
      })
      const messages = yield* recorded(socket.messages)
      for (const message of ["1", "2", "3", "RESUMED", "4", "5"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(messages.all, [])
      yield* pass(1_000)
      yield* peer.send("6")
      yield* settle
      assert.deepStrictEqual(messages.all, ["1", "2", "3", "4", "5", "6"])
    }))

  test("W14: puts the message after the border of its own connection, also if the login fails later", () =>
    Effect.gen(function*() {
      let n = 0
      const { peer, server, socket } = yield* opened({
        onOpen: (connection) =>
          Effect.zipRight(waitingFor("RESUMED")(connection), n++ === 0 ? Effect.fail("no") : Effect.void)
      })
      const received = yield* recorded(socket.received)
      for (const message of ["1", "RESUMED", "2"]) yield* peer.send(message)
      yield* pass(1_000)
      const next = yield* server.open
      for (const message of ["3", "RESUMED", "4"]) yield* next.send(message)
      yield* settle
      assert.deepStrictEqual(
        received.all.map((one) => one._tag === "Opened" ? `open ${one.connection}` : one.message),
        ["open 0", "1", "2", "open 1", "3", "4"]
      )
    }))

  test("W13: of more messages than the inbox holds does not block the login", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* opened({
        inbox: { capacity: 4 },
        onOpen: waitingFor("RESUMED")
      })
      const all = Array.from({ length: 50 }, (_, n) => String(n))
      for (const message of [...all, "RESUMED"]) {
        yield* peer.send(message)
        yield* settle
      }
      const messages = yield* recorded(socket.messages)
      assert.deepStrictEqual(messages.all, all)
      assert.deepStrictEqual(lossesOf(events), [])
    }))

  test("W14: of a message after the login is over delivers it as well", () =>
    Effect.gen(function*() {
      const connections: Array<Connection> = []
      const { peer, socket } = yield* opened({
        onOpen: (connection) => Effect.sync(() => connections.push(connection))
      })
      const messages = yield* recorded(socket.messages)
      yield* peer.send("1")
      yield* connections[0]!.unread("late")
      yield* settle
      assert.deepStrictEqual(messages.all, ["1", "late"])
    }))
})

describe("attempt and previous", () => {
  test("W3: count the delays since the backoff last started, and say why the last attempt failed", () =>
    Effect.gen(function*() {
      const contexts: Array<readonly [number, string | undefined]> = []
      const { peer, server } = yield* opened({
        stableAfter: "5 seconds",
        onOpen: ({ attempt, previous }) =>
          Effect.sync(() => contexts.push([attempt, Option.getOrUndefined(Option.map(previous, ({ _tag }) => _tag))]))
      })
      yield* peer.close(1012)
      yield* pass(1_000)
      yield* server.refuse(503)
      yield* pass(2_000)
      const second = yield* server.open
      yield* pass(5_000)
      yield* second.reset
      yield* pass(1_000)
      yield* server.open
      assert.deepStrictEqual(contexts, [[0, undefined], [2, "DialError"], [1, "ConnectionLost"]])
    }))

  test("W15: of a replacement are 0 and none", () =>
    Effect.gen(function*() {
      const contexts: Array<readonly [number, boolean]> = []
      const { peer, server } = yield* opened({
        renewAfter: "10 seconds",
        onOpen: ({ attempt, previous }) => Effect.sync(() => contexts.push([attempt, Option.isSome(previous)]))
      })
      yield* peer.reset
      yield* pass(1_000)
      yield* server.open
      yield* pass(10_000)
      yield* server.open
      assert.deepStrictEqual(contexts, [[0, false], [1, true], [0, false]])
    }))
})

describe("a login's own heartbeat", () => {
  test("W4: applies to this connection from then on, with the socket's own options for the rest", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({
        heartbeat: { interval: "30 seconds", timeout: "2 seconds", ping: () => "beat" },
        onOpen: ({ attempt, heartbeat }) => attempt === 0 ? heartbeat({ interval: "5 seconds" }) : Effect.void
      })
      yield* pass(4_999)
      assert.deepStrictEqual(peer.got, [])
      yield* pass(1)
      assert.deepStrictEqual(peer.got, ["beat"])
      yield* peer.send("ok")
      yield* pass(5_000)
      assert.deepStrictEqual(peer.got, ["beat", "beat"])
      yield* pass(2_000)
      assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
      yield* pass(1_000)
      const next = yield* server.open
      yield* pass(29_999)
      assert.deepStrictEqual(next.got, [])
      yield* pass(1)
      assert.deepStrictEqual(next.got, ["beat"])
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W14: has its own `isPong` and `answer`; false turns it off", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({
        heartbeat: { interval: "1 seconds", timeout: "1 seconds", isPong: (message) => message === "pong" },
        onOpen: ({ attempt, heartbeat }) =>
          attempt > 0 ? heartbeat(false) : heartbeat({
            ping: "ping",
            always: true,
            answer: (message) => message === "ping?" ? Option.some("ping!") : Option.none()
          })
      })
      const messages = yield* recorded(socket.messages)
      yield* pass(1_000)
      for (const message of ["pong", "ping?", "a"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual([peer.got, messages.all], [["ping", "ping!"], ["a"]])
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      yield* next.stall
      yield* next.send("pong")
      yield* pass(3_600_000)
      assert.deepStrictEqual(messages.all, ["a", "pong"])
      assert.deepStrictEqual(lossesOf(events), ["Reset"])
    }))

  test("W4: also checks the connection during the login, from the dial on", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* opened({
        openTimeout: "1 minute",
        heartbeat: { interval: "5 seconds", timeout: "1 seconds" },
        onOpen: () => Effect.never
      })
      yield* peer.stall
      yield* pass(5_999)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* pass(1)
      assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
    }))

  const wrong = [["heartbeat.interval", { interval: -1 }], ["heartbeat", 5], ["heartbeat", true], ["heartbeat", null]]
  for (const [option, given] of wrong) {
    test(`W8: with invalid options (${JSON.stringify(given)}) is refused, typed, and the previous one stays`, () =>
      Effect.gen(function*() {
        const refused = yield* Deferred.make<unknown>()
        const { events, peer } = yield* opened({
          backoff: steady,
          heartbeat: { interval: "5 seconds", timeout: "1 seconds" },
          onOpen: ({ heartbeat }) =>
            Effect.flatMap(
              Effect.either(heartbeat(given as never)),
              (one) => Deferred.succeed(refused, Either.flip(one))
            )
        })
        assert.deepInclude(Either.getOrThrow((yield* Deferred.await(refused)) as Either.Either<object>), {
          _tag: "InvalidOptions",
          option
        })
        assert.deepStrictEqual(ofTag(events, "Opened").length, 1)
        yield* peer.stall
        yield* pass(6_000)
        assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
      }))
  }
})

describe("end", () => {
  /** A login that is given up the first time, and succeeds after that. */
  const endingFirst = (options?: ReconnectingSocket.ReconnectOptions) => {
    const seen = { interrupted: 0, goneOn: 0 }
    let n = 0
    const onOpen = ({ end }: Connection) =>
      n++ > 0 ? Effect.void : end(options).pipe(
        Effect.onInterrupt(() => Effect.sync(() => seen.interrupted++)),
        Effect.zipRight(Effect.sync(() => seen.goneOn++))
      )
    return { seen, onOpen }
  }

  test("W15: interrupts the login, without an OnOpenFailed, and the next dial comes after the delay", () =>
    Effect.gen(function*() {
      const { onOpen, seen } = endingFirst()
      const { events, server, socket } = yield* opened({ backoff: steady, onOpen })
      yield* settle
      assert.deepStrictEqual(seen, { interrupted: 1, goneOn: 0 })
      assert.deepStrictEqual(lossesOf(events), ["Reset"])
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      yield* pass(999)
      assert.lengthOf(server.times, 1)
      yield* pass(1)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W15: dials immediately without the backoff, and says with a code why it closes", () =>
    Effect.gen(function*() {
      const { onOpen } = endingFirst({ backoff: false, code: 4000, reason: "another session" })
      const { peer, server, socket } = yield* opened({ backoff: steady, onOpen })
      yield* settle
      assert.deepStrictEqual(yield* peer.ended, new ConnectionClosed({ code: 4000, reason: "another session" }))
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 0])
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W15: ends only a replacement, and the current connection stays in use until the next", () =>
    Effect.gen(function*() {
      let n = 0
      const { events, peer, server, socket } = yield* opened({
        backoff: steady,
        renewAfter: "10 seconds",
        onOpen: ({ end }) => n++ === 1 ? end({ code: 4000 }) : Effect.void
      })
      yield* pass(10_000)
      const second = yield* server.open
      assert.deepStrictEqual(yield* second.ended, new ConnectionClosed({ code: 4000, reason: "" }))
      assert.strictEqual((yield* socket.state)._tag, "Open")
      yield* socket.send("1")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1"])
      yield* pass(1_000)
      const third = yield* server.open
      yield* socket.send("2")
      yield* settle
      assert.deepStrictEqual(third.got, ["2"])
      assert.deepStrictEqual(lossesOf(events), [])
    }))

  test("W15: of a connection that is open reconnects, and of one that is gone does nothing", () =>
    Effect.gen(function*() {
      const ends: Array<Connection["end"]> = []
      const { peer, server, socket } = yield* opened({
        backoff: steady,
        onOpen: ({ end }) => Effect.sync(() => ends.push(end))
      })
      yield* settle
      yield* Effect.fork(ends[0]!({ backoff: false }))
      yield* settle
      yield* server.open
      assert.lengthOf(server.times, 2)
      yield* Effect.fork(ends[0]!({ backoff: false }))
      yield* pass(5_000)
      assert.lengthOf(server.times, 2)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.strictEqual((yield* peer.ended)._tag, "ConnectionLost")
    }))
})
