/** Subscriptions whose `open` is an effect, that are confirmed, share a key, are paced or combined. */
import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Hash from "effect/Hash"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import {
  failureOf,
  isDone,
  lossesOf,
  type Message,
  ofTag,
  onWires,
  opened,
  pass,
  recorded,
  settle,
  steady,
  test,
  Wire
} from "../support/reconnectingSockets.js"

type Sockets = ReconnectingSocket.ReconnectingSocket<string, string>

/** `ok gold` confirms, `no gold` refuses. */
const confirmed = (topic: string) => (message: string): Option.Option<Either.Either<void, string>> =>
  message === `ok ${topic}`
    ? Option.some(Either.void)
    : message === `no ${topic}`
    ? Option.some(Either.left(`no ${topic}`))
    : Option.none()

const gold = { open: "+gold", close: "-gold", key: "gold", confirmed: confirmed("gold") }

/** Subscribes in a new scope, and gives that scope. */
const subscribing = <E>(socket: Sockets, options: ReconnectingSocket.SubscriptionOptions<string, string, E>) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
    const fiber = yield* Effect.fork(Effect.exit(Scope.extend(socket.subscribe(options), scope)))
    yield* settle
    return { close: Effect.zipRight(Scope.close(scope, Exit.void), settle), fiber, scope }
  })

describe("an `open` that is an effect", () => {
  test("W9a: is run for each connection, and sent before the outbox", () =>
    Effect.gen(function*() {
      let since = 0
      const { peer, server, socket } = yield* opened()
      yield* socket.subscribe({ open: Effect.sync(() => `since ${since++}`) })
      yield* settle
      yield* peer.reset
      yield* socket.send("message")
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual([peer.got, next.got], [["since 0"], ["since 1", "message"]])
    }))

  test("that fails makes the waiting `subscribe` fail, and the subscription is not kept", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened()
      const failed = yield* Effect.either(socket.subscribe({ open: Effect.fail("no signature"), close: "-" }))
      assert.deepStrictEqual(failed, Either.left("no signature"))
      const died = yield* Effect.exit(socket.subscribe({ open: Effect.die("a defect") }))
      assert.isTrue(Exit.isFailure(died) && Cause.isDie(died.cause))
      const odd = yield* Effect.flip(socket.subscribe({ open: Effect.succeed(1 as never) }))
      assert.strictEqual(odd._tag, "EncodeError")
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual([peer.got, next.got, ofTag(events, "SubscriptionFailed")], [[], [], []])
    }))

  test("W8: that does not end in time fails the `subscribe` with RequestTimeout", () =>
    Effect.gen(function*() {
      const { socket } = yield* opened({ openTimeout: "3 seconds" })
      const { fiber } = yield* subscribing(socket, { open: Effect.never })
      yield* pass(2_999)
      assert.isFalse(yield* isDone(fiber))
      yield* pass(1)
      const failure = failureOf(yield* Fiber.join(fiber))
      assert.deepStrictEqual(failure, new ReconnectingSocket.RequestTimeout({ timeout: Duration.seconds(3) }))
    }))

  test("W8: that fails after a reconnect is an event: it is left out there, and tried on the next connection", () =>
    Effect.gen(function*() {
      const attempts: Array<Effect.Effect<string, string>> = [
        Effect.succeed("+1"),
        Effect.fail("no"),
        Effect.die("no"),
        Effect.never,
        Effect.succeed("+5")
      ]
      const { events, peer, server, socket } = yield* opened({ openTimeout: "3 seconds" })
      let n = 0
      yield* socket.subscribe({ open: Effect.suspend(() => attempts[n++]!), key: "a" })
      yield* socket.subscribe({ open: "+other" })
      let last = peer
      const got: Array<ReadonlyArray<unknown>> = []
      for (let round = 0; round < 4; round++) {
        yield* last.reset
        yield* pass(1_000 * 2 ** round)
        last = yield* server.open
        if (round === 2) yield* pass(3_000)
        assert.strictEqual((yield* socket.state)._tag, "Open")
        got.push(last.got)
      }
      assert.deepStrictEqual(got, [["+other"], ["+other"], ["+other"], ["+5", "+other"]])
      const failed = ofTag(events, "SubscriptionFailed")
      assert.deepStrictEqual(failed.map(({ key }) => key), ["a", "a", "a"])
      assert.deepStrictEqual(failed.slice(0, 2).map(({ error }) => error), ["no", "no"])
      assert.instanceOf(failed[2]!.error, ReconnectingSocket.RequestTimeout)
      assert.deepStrictEqual(ofTag(events, "Resubscribed").map(({ subscriptions }) => subscriptions), [1, 1, 1, 2])
    }))
})

describe("a subscription that is confirmed", () => {
  test("W14: waits for its confirmation, which does not go to `messages`", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const messages = yield* recorded(socket.messages)
      const { close, fiber } = yield* subscribing(socket, gold)
      assert.deepStrictEqual(peer.got, ["+gold"])
      yield* peer.send("ok silver")
      yield* settle
      assert.isFalse(yield* isDone(fiber))
      yield* peer.send("ok gold")
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
      yield* peer.send("ok gold")
      yield* close
      assert.deepStrictEqual([messages.all, peer.got], [["ok silver", "ok gold"], ["+gold", "-gold"]])
    }))

  test("W14: that is refused fails, is not closed, and not sent again", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened()
      const { close, fiber } = yield* subscribing(socket, gold)
      yield* peer.send("no gold")
      assert.strictEqual(failureOf(yield* Fiber.join(fiber)), "no gold")
      yield* close
      assert.deepStrictEqual(peer.got, ["+gold"])
      yield* peer.reset
      yield* pass(1_000)
      assert.deepStrictEqual((yield* server.open).got, [])
      assert.deepStrictEqual(ofTag(events, "SubscriptionFailed"), [])
    }))

  for (const isLost of [true, false]) {
    const how = isLost ? "that is kept since the connection was lost" : "that takes over"
    test(`W14: that is refused on a replacement (${how}) fails, if it was not answered before`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* opened({ renewAfter: "10 seconds" })
        const { fiber } = yield* subscribing(socket, { ...gold, timeout: "1 minute" })
        yield* pass(10_000)
        const replacement = yield* server.open
        assert.deepStrictEqual(replacement.got, ["+gold"])
        yield* replacement.send("no gold")
        yield* settle
        if (isLost) yield* peer.reset
        yield* pass(2_000)
        assert.strictEqual(failureOf(yield* Fiber.join(fiber)), "no gold")
        assert.deepStrictEqual(ofTag(events, "SubscriptionFailed"), [])
      }))
  }

  describe("behind a request whose write is going on", () => {
    const any = (message: Message) => Option.some(String(message))
    const busy = (timeout: Duration.DurationInput) =>
      Effect.gen(function*() {
        const wire = new Wire({ isHeld: true })
        const { socket } = yield* onWires([wire], {})
        yield* settle
        yield* socket.send("first")
        const requesting = yield* Effect.fork(socket.request("R", { reply: any, timeout: "1 minute" }))
        yield* settle
        const answers: Array<string> = []
        const subscribing = yield* Effect.fork(Effect.exit(Effect.scoped(socket.subscribe({
          open: "S",
          timeout,
          confirmed: (message) => (answers.push(String(message)), Option.some(Either.void))
        }))))
        yield* settle
        return { answers, requesting, subscribing, wire }
      })

    it.scoped("W14: takes the answer to itself, and not the request's", () =>
      Effect.gen(function*() {
        const { answers, requesting, subscribing, wire } = yield* busy("1 minute")
        wire.take()
        yield* settle
        wire.take()
        yield* settle
        wire.say("to R")
        wire.say("to S")
        assert.strictEqual(yield* Fiber.join(requesting), "to R")
        yield* Fiber.join(subscribing)
        assert.deepStrictEqual([wire.taken.slice(0, 3), answers], [["first", "R", "S"], ["to S"]])
      }))

    it.scoped("W14: has its whole `timeout` after it was sent", () =>
      Effect.gen(function*() {
        const { requesting, subscribing, wire } = yield* busy("2 seconds")
        yield* pass(3_000)
        assert.isFalse(yield* isDone(subscribing))
        wire.take()
        yield* pass(1_999)
        assert.isFalse(yield* isDone(subscribing))
        yield* pass(1)
        assert.instanceOf(failureOf(yield* Fiber.join(subscribing)), ReconnectingSocket.RequestTimeout)
        yield* Fiber.interrupt(requesting)
      }))
  })

  for (
    const [option, options] of [["options", null], ["options", 5], ["confirmed", { ...gold, confirmed: 5 }]] as const
  ) {
    test(`W8: options of the wrong kind (${JSON.stringify(options)}) are a typed failure, and nothing is sent`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* opened()
        const error = yield* Effect.flip(socket.subscribe(options as never))
        assert.deepInclude(error, { _tag: "EncodeError" })
        assert.deepInclude((error as ReconnectingSocket.EncodeError).cause, { _tag: "InvalidOptions", option })
        yield* settle
        assert.deepStrictEqual(peer.got, [])
      }))
  }

  for (const timeout of [-1, NaN, "-1 seconds", "soon", "", {}, [1], true, Symbol("soon")]) {
    test(`W8: a timeout that is no duration (${String(timeout)}) is a typed failure, and nothing is sent`, () =>
      Effect.gen(function*() {
        const { peer, server, socket } = yield* opened()
        const error = yield* Effect.flip(socket.subscribe({ ...gold, timeout: timeout as never }))
        assert.instanceOf(error, ReconnectingSocket.EncodeError)
        assert.instanceOf(error.cause, InvalidOptions)
        assert.deepInclude(error.cause, { option: "timeout", value: timeout })
        yield* peer.reset
        yield* pass(1_000)
        const next = yield* server.open
        assert.deepStrictEqual([peer.got, next.got], [[], []])
      }))
  }

  for (const timeout of [undefined, "3 seconds"] as const) {
    test(`W14: whose confirmation does not come fails after ${timeout ?? "10 seconds"}, and is closed`, () =>
      Effect.gen(function*() {
        const millis = timeout === undefined ? 10_000 : 3_000
        const { peer, socket } = yield* opened()
        const messages = yield* recorded(socket.messages)
        const { fiber } = yield* subscribing(socket, { ...gold, timeout })
        yield* pass(millis - 1)
        assert.isFalse(yield* isDone(fiber))
        yield* pass(1)
        assert.deepStrictEqual(
          failureOf(yield* Fiber.join(fiber)),
          new ReconnectingSocket.RequestTimeout({ timeout: Duration.millis(millis) }) as never
        )
        yield* settle
        assert.deepStrictEqual(peer.got, ["+gold", "-gold"])
        yield* peer.send("ok gold")
        yield* settle
        assert.deepStrictEqual(messages.all, ["ok gold"])
      }))
  }

  test("W7: that is interrupted while it waits is closed", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const { fiber } = yield* subscribing(socket, gold)
      yield* Fiber.interrupt(fiber)
      yield* settle
      assert.deepStrictEqual(peer.got, ["+gold", "-gold"])
    }))

  test("W9a: is confirmed on each new connection before that counts as open", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      const { fiber } = yield* subscribing(socket, gold)
      yield* peer.send("ok gold")
      yield* Fiber.join(fiber)
      yield* peer.reset
      yield* socket.send("message")
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual([next.got, (yield* socket.state)._tag], [["+gold"], "Opening"])
      yield* next.send("ok gold")
      yield* settle
      assert.deepStrictEqual([next.got, (yield* socket.state)._tag], [["+gold", "message"], "Open"])
    }))

  test("W9a: that is refused later, or not confirmed, is an event, and left out on that connection alone", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened()
      const { close, fiber } = yield* subscribing(socket, gold)
      yield* peer.send("ok gold")
      yield* Fiber.join(fiber)
      yield* peer.reset
      yield* pass(1_000)
      const second = yield* server.open
      yield* second.send("no gold")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      yield* second.reset
      yield* pass(2_000)
      const third = yield* server.open
      yield* pass(10_000)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "SubscriptionFailed").map(({ error, key }) => [key, error]), [
        ["gold", "no gold"],
        ["gold", new ReconnectingSocket.RequestTimeout({ timeout: Duration.seconds(10) })]
      ])
      yield* close
      assert.deepStrictEqual([second.got, third.got], [["+gold"], ["+gold", "-gold"]])
    }))

  test("W13: without a connection, or when it is lost meanwhile, succeeds, and is sent with the next one", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      const waiting = yield* subscribing(socket, gold)
      yield* peer.reset
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(waiting.fiber)))
      yield* socket.subscribe({ open: "+silver", confirmed: confirmed("silver") })
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["+gold", "+silver"])
      yield* next.send("ok silver")
      yield* next.send("ok gold")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W7: fails with SocketClosed when the socket is closed meanwhile", () =>
    Effect.gen(function*() {
      const { socket } = yield* opened()
      const { fiber } = yield* subscribing(socket, gold)
      yield* socket.close()
      assert.strictEqual((failureOf(yield* Fiber.join(fiber)) as { readonly _tag?: string })._tag, "SocketClosed")
    }))

  for (
    const [how, odd] of Object.entries({
      "throws": () => {
        throw new Error("odd")
      },
      "gives no Option": () => true as never,
      "gives an Option without an Either": () => Option.some(true) as never
    })
  ) {
    test(`W8: whose \`confirmed\` ${how} is an event, and the next subscription is asked`, () =>
      Effect.gen(function*() {
        const { events, peer, socket } = yield* opened()
        yield* subscribing(socket, { open: "+odd", confirmed: odd })
        const { fiber } = yield* subscribing(socket, gold)
        yield* peer.send("ok gold")
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
        assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["confirmed"])
        assert.deepStrictEqual(lossesOf(events), [])
      }))
  }
})

describe("subscriptions of one key", () => {
  test("W9a: are sent once, and closed with the last user", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      const first = yield* subscribing(socket, { open: "+gold", close: "-gold", key: ["gold"].join("") })
      const second = yield* subscribing(socket, { open: "other", close: "other", key: "gold" })
      yield* first.close
      assert.deepStrictEqual(peer.got, ["+gold"])
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["+gold"])
      yield* second.close
      assert.deepStrictEqual(next.got, ["+gold", "-gold"])
      yield* subscribing(socket, { open: "other", key: "gold" })
      assert.deepStrictEqual(next.got, ["+gold", "-gold", "other"])
    }))

  test("W14: share the confirmation, or the refusal", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const users = yield* Effect.forEach([1, 2], () => subscribing(socket, gold))
      assert.deepStrictEqual(peer.got, ["+gold"])
      yield* peer.send("no gold")
      for (const { fiber } of users) assert.strictEqual(failureOf(yield* Fiber.join(fiber)), "no gold")
      const again = yield* Effect.forEach([1, 2], () => subscribing(socket, gold))
      assert.deepStrictEqual(peer.got, ["+gold", "+gold"])
      yield* peer.send("ok gold")
      for (const { fiber } of again) assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
      const late = yield* subscribing(socket, gold)
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(late.fiber)))
      assert.deepStrictEqual(peer.got, ["+gold", "+gold"])
    }))

  test("W14: that were left out on a connection are tried again by the next user", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened()
      const first = yield* subscribing(socket, gold)
      yield* peer.send("ok gold")
      yield* Fiber.join(first.fiber)
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      yield* next.send("no gold")
      yield* settle
      const second = yield* subscribing(socket, gold)
      assert.deepStrictEqual(next.got, ["+gold", "+gold"])
      yield* next.send("no gold")
      assert.strictEqual(failureOf(yield* Fiber.join(second.fiber)), "no gold")
      const third = yield* subscribing(socket, gold)
      yield* next.send("ok gold")
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(third.fiber)))
      assert.lengthOf(ofTag(events, "SubscriptionFailed"), 2)
      yield* first.close
      yield* third.close
      assert.deepStrictEqual(next.got, ["+gold", "+gold", "+gold", "-gold"])
    }))

  test("W18: a key whose hash throws is an EncodeError", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const key = {
        [Hash.symbol]: () => {
          throw new Error("no hash")
        }
      }
      assert.strictEqual((yield* Effect.flip(socket.subscribe({ open: "+", key })))._tag, "EncodeError")
      assert.deepStrictEqual(peer.got, [])
    }))

  test("W18: a key whose hash throws when its last user leaves is closed, and can be used again", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      let isBroken = false
      const key = {
        [Hash.symbol]: () => {
          if (isBroken) throw new Error("no hash")
          return 1
        },
        [Equal.symbol]: (that: unknown) => that === key
      }
      const first = yield* subscribing(socket, { open: "+", close: "-", key })
      yield* Fiber.join(first.fiber)
      isBroken = true
      yield* first.close
      assert.deepStrictEqual(peer.got, ["+", "-"])
      isBroken = false
      const second = yield* subscribing(socket, { open: "+", close: "-", key })
      yield* Fiber.join(second.fiber)
      yield* second.close
      assert.deepStrictEqual(peer.got, ["+", "-", "+", "-"])
    }))
})

describe("paced subscriptions", () => {
  const paced = { subscriptions: { rate: { limit: 2, interval: "1 seconds" } } } as const
  const topics = ["1", "2", "3", "4", "5"]

  test("W9a: are no more than `limit` in any `interval`, `open` and `close` alike, in their order", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened(paced)
      const all = yield* Effect.forEach(
        topics,
        (topic) => subscribing(socket, { open: `+${topic}`, close: `-${topic}` })
      )
      assert.deepStrictEqual(peer.got, ["+1", "+2"])
      yield* pass(600)
      yield* all[0]!.close
      // A subscription that ends before its turn is not sent.
      yield* all[2]!.close
      yield* pass(399)
      assert.deepStrictEqual(peer.got, ["+1", "+2"])
      yield* pass(1)
      assert.deepStrictEqual(peer.got, ["+1", "+2", "+4", "+5"])
      yield* pass(999)
      assert.lengthOf(peer.got, 4)
      yield* pass(1)
      assert.deepStrictEqual(peer.got, ["+1", "+2", "+4", "+5", "-1"])
    }))

  test("W9a: are paced on a new connection too, counted with the last one's, and not against `openTimeout`", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ ...paced, openTimeout: "1500 millis" })
      for (const topic of topics) {
        yield* socket.subscribe({ open: `+${topic}` })
        yield* pass(500)
      }
      assert.lengthOf(peer.got, 5)
      yield* peer.reset
      yield* socket.send("message")
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["+1", "+2"])
      yield* pass(1_000)
      yield* pass(999)
      assert.deepStrictEqual([next.got, (yield* socket.state)._tag], [["+1", "+2", "+3", "+4"], "Opening"])
      yield* pass(1)
      assert.deepStrictEqual(next.got, ["+1", "+2", "+3", "+4", "+5", "message"])
      assert.deepStrictEqual(lossesOf(events), ["Reset"])
    }))

  it.scoped("are awaited while their messages are taken: a busy feed that cannot be paused opens", () =>
    Effect.gen(function*() {
      const wires = [new Wire({ pause: false }), new Wire({ pause: false })]
      const { events, socket } = yield* onWires(wires, { ...paced, inbox: { capacity: 2 }, backoff: steady })
      const messages = yield* recorded(socket.messages)
      for (const topic of topics) yield* Effect.fork(socket.subscribe({ open: `+${topic}` }))
      yield* pass(3_000)
      wires[0]!.reset()
      yield* pass(1_000)
      const [, wire] = wires
      let n = 0
      while ((yield* socket.state)._tag === "Opening" && n < 100) {
        wire!.say(String(n++))
        yield* pass(100)
      }
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.isAbove(n, 10)
      assert.deepStrictEqual(messages.all, Array.from({ length: n }, (_, i) => String(i)))
      assert.deepStrictEqual(lossesOf(events), ["Reset"])
    }))

  const slow = {
    heartbeat: false,
    writeTimeout: "1 hours",
    subscriptions: { rate: { limit: 1, interval: "1 hours" } }
  } as const

  it.scoped("W9a: that were being written when the connection was lost count, since they may have arrived", () => {
    const wires = Array.from({ length: 5 }, () => new Wire({ isHeld: true }))
    return Effect.gen(function*() {
      const { socket } = yield* onWires<string, string>(wires, { ...slow, backoff: steady })
      yield* settle
      yield* socket.subscribe({ open: "+gold" })
      for (const wire of wires) {
        yield* settle
        wire.reset()
        yield* pass(60_000)
      }
      assert.deepStrictEqual(wires.map(({ batches }) => batches.length), [1, 0, 0, 0, 0])
    })
  })

  it.scoped("W9a: that were still queued when the connection was lost do not count", () => {
    const wires = [new Wire({ isHeld: true }), new Wire()]
    return Effect.gen(function*() {
      const { socket } = yield* onWires<string, string>(wires, { ...slow, backoff: steady })
      yield* settle
      yield* socket.send("0")
      yield* socket.subscribe({ open: "+gold" })
      yield* settle
      wires[0]!.reset()
      yield* pass(1_000)
      assert.deepStrictEqual([wires[0]!.batches, wires[1]!.taken], [[["0"]], ["+gold"]])
    })
  })

  test("W9a: that a transport holds back count until they are written", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ ...paced, writeTimeout: "5 seconds" })
      yield* peer.stall
      for (const topic of topics) yield* socket.subscribe({ open: `+${topic}` })
      yield* pass(4_999)
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      assert.lengthOf(next.got, 2)
    }))
})

describe("combined subscriptions", () => {
  const combine = (opens: ReadonlyArray<string>) => [`+${opens.map((open) => open.slice(1)).join(",")}`] as const

  test("W9a: are sent as few messages on a new connection, and each is confirmed", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ subscriptions: { combine } })
      yield* socket.subscribe({ open: Effect.succeed("+1"), close: "-1" })
      yield* socket.subscribe({ open: "+2" })
      const { fiber } = yield* subscribing(socket, gold)
      yield* peer.send("ok gold")
      yield* Fiber.join(fiber)
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual([peer.got, next.got], [["+1", "+2", "+gold"], ["+1,2,gold"]])
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* next.send("ok gold")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "Resubscribed").map(({ subscriptions }) => subscriptions), [3])
    }))

  test("W9a: one that ends while they wait for their turn is closed after them", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({
        subscriptions: { combine: (opens) => [...opens], rate: { limit: 1, interval: "1 seconds" } }
      })
      const first = yield* subscribing(socket, { open: "+1", close: "-1" })
      yield* pass(1_000)
      yield* socket.subscribe({ open: "+2" })
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["+1"])
      yield* first.close
      yield* pass(1_000)
      yield* pass(1_000)
      assert.deepStrictEqual(next.got, ["+1", "+2", "-1"])
    }))

  test("W9a: one that is refused between two of the messages, and then left, is not closed", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({
        subscriptions: { combine: (opens) => [...opens], rate: { limit: 1, interval: "1 seconds" } }
      })
      const first = yield* subscribing(socket, { ...gold, close: "-gold" })
      yield* peer.send("ok gold")
      yield* Fiber.join(first.fiber)
      yield* pass(1_000)
      yield* socket.subscribe({ open: "+2" })
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      yield* next.send("no gold")
      yield* settle
      assert.lengthOf(ofTag(events, "SubscriptionFailed"), 1)
      yield* first.close
      yield* pass(5_000)
      assert.deepStrictEqual(next.got, ["+gold", "+2"])
    }))

  test("W9a: have the time for their answers from the last of the messages, which wait for their turns", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({
        subscriptions: { combine: (opens) => [...opens], rate: { limit: 1, interval: "1 seconds" } }
      })
      yield* socket.subscribe({ open: "+1" })
      yield* pass(1_000)
      yield* socket.subscribe({ open: "+2" })
      yield* pass(1_000)
      const { fiber } = yield* subscribing(socket, { ...gold, timeout: "1500 millis" })
      yield* peer.send("ok gold")
      yield* Fiber.join(fiber)
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      yield* pass(1_000)
      yield* pass(1_000)
      assert.deepStrictEqual(next.got, ["+1", "+2", "+gold"])
      yield* pass(1_499)
      yield* next.send("ok gold")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "SubscriptionFailed"), [])
      yield* next.reset
      yield* pass(2_000)
      const silent = yield* server.open
      yield* pass(1_000)
      yield* pass(1_000)
      assert.deepStrictEqual(silent.got, ["+1", "+2", "+gold"])
      yield* pass(1_500)
      assert.deepStrictEqual(ofTag(events, "SubscriptionFailed").map(({ key }) => key), ["gold"])
    }))

  const odd: Record<string, () => readonly [string]> = {
    "throws": () => {
      throw new Error("odd")
    },
    "gives nothing": () => [] as never,
    "gives a message that cannot be encoded": () => [1 as never]
  }
  for (const [how, combine] of Object.entries(odd)) {
    test(`W8: a \`combine\` that ${how} is an event, and each is sent alone`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* opened({ subscriptions: { combine } })
        yield* socket.subscribe({ open: "+1" })
        yield* socket.subscribe({ open: "+2" })
        yield* peer.reset
        yield* pass(1_000)
        assert.deepStrictEqual((yield* server.open).got, ["+1", "+2"])
        assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["combine"])
      }))
  }
})
