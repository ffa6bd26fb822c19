import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { type Limits, Outbox, type QueuedMessage, queuedMessage } from "../../src/internal/socket/outbox.js"

const queued = (message: string, only?: object) => queuedMessage(message, message, { id: message, ...only && { only } })

const outboxOf = (inFlight: number, given: Partial<Limits> = {}) => {
  const { capacity = 10, isCumulative = true, keeps = true, overflow = "fail" } = given
  return new Outbox<string>({
    capacity,
    bytes: 1_000_000_000,
    overflow,
    keeps,
    isCumulative,
    inFlight,
    maxResends: Infinity
  }, { now: () => 0, onChanged: () => {}, onUndelivered: () => {}, resent: () => undefined })
}

const connection = { wakeWriter: () => {} }

const messagesOf = (all: ReadonlyArray<QueuedMessage<string>>) => all.map(({ message }) => message)

describe("an outbox whose window is full", () => {
  it("drops, with messages that expire, those that get their room and have expired as well", () => {
    const outbox = outboxOf(1, { capacity: 1, keeps: false, overflow: "suspend" })
    const expired: Array<string> = []
    for (const [message, expiresAt] of [["0", 5], ["1", 5], ["2", 20], ["3", 5]] as const) {
      const queued = queuedMessage(message, message, { expiresAt })
      queued.onDone = (outcome) => expired.push(`${message} ${outcome}`)
      outbox.offer(queued)
    }
    outbox.expire(10)
    assert.deepStrictEqual(expired, ["0 Expired", "1 Expired"])
    assert.deepStrictEqual(messagesOf(outbox.take(100)), ["2"])
  })

  it.effect("is not flushed while a queued message has been overtaken by one for its connection only", () =>
    Effect.gen(function*() {
      const outbox = outboxOf(1)
      for (const message of ["0", "1"]) outbox.offer(queued(message))
      assert.deepStrictEqual(messagesOf(outbox.take(100)), ["0"])
      const flushing = yield* Effect.fork(outbox.flushed)
      const isFlushed = Effect.map(Effect.yieldNow(), () => flushing.unsafePoll() !== null)
      assert.isFalse(yield* isFlushed)
      outbox.offer(queued("only", {}))
      const only = outbox.take(100)
      assert.deepStrictEqual(messagesOf(only), ["only"])
      outbox.acknowledge("0", connection)
      assert.isFalse(yield* isFlushed)
      outbox.settle(only, true)
      assert.isFalse(yield* isFlushed)
      assert.deepStrictEqual(messagesOf(outbox.take(100)), ["1"])
      outbox.acknowledge("1", connection)
      assert.isTrue(yield* isFlushed)
    }))

  it.effect("is not flushed while an older message, handed over after one that overtook it, is not acknowledged", () =>
    Effect.gen(function*() {
      const outbox = outboxOf(1)
      for (const message of ["0", "1"]) outbox.offer(queued(message))
      outbox.take(100)
      const flushing = yield* Effect.fork(outbox.flushed)
      yield* Effect.yieldNow()
      for (const message of ["one only", "another only"]) outbox.offer(queued(message, {}))
      const [, another] = outbox.take(100)
      outbox.acknowledge("0", connection)
      assert.deepStrictEqual(messagesOf(outbox.take(100)), ["1"])
      outbox.settle([another!], true)
      yield* Effect.yieldNow()
      assert.isNull(flushing.unsafePoll())
      outbox.acknowledge("1", connection)
      assert.strictEqual(yield* Fiber.join(flushing), "Done")
    }))

  it("drops messages for one connection only with that connection, and keeps the others in order", () => {
    const outbox = outboxOf(2)
    outbox.drainTo(connection)
    for (const message of ["0", "1", "2"]) outbox.offer(queued(message))
    outbox.take(100)
    outbox.offer(queued("only", connection))
    outbox.release(connection, true)
    assert.deepStrictEqual(messagesOf(outbox.take(100)), ["0", "1"])
    assert.isFalse(outbox.hasWork)
    outbox.acknowledge("1", connection)
    assert.deepStrictEqual(messagesOf(outbox.take(100)), ["2"])
  })
})

describe("a full outbox", () => {
  // Emptying takes about half a second. If the time grew with the square of the number, it would be ten and more.
  const ways: ReadonlyArray<readonly [string, { readonly keeps?: boolean; readonly isCumulative?: boolean }]> = [
    ["written, while someone waits for the last one", { keeps: false }],
    ["acknowledged one by one", { isCumulative: false }],
    ["acknowledged up to each", { isCumulative: true }]
  ]
  it.effect.each(ways)("of 200,000 messages empties in linear time: %s", ([, options]) =>
    Effect.gen(function*() {
      const capacity = 200_000
      const outbox = outboxOf(capacity, { capacity, ...options })
      for (let n = 0; n < capacity; n++) {
        outbox.offer(queuedMessage(String(n), "", "keeps" in options ? {} : { id: String(n) }))
      }
      const flushing = yield* Effect.fork(outbox.flushed)
      yield* Effect.yieldNow()
      outbox.drainTo(connection)
      const since = performance.now()
      while (outbox.hasWork) {
        const batch = outbox.take(1024 * 1024)
        outbox.settle(batch, true)
        for (const { message } of batch) outbox.acknowledge(message, connection)
      }
      assert.isBelow(performance.now() - since, 8_000)
      assert.strictEqual(yield* Fiber.join(flushing), "Done")
    }))

  const many = 200_000

  const oneByOne: Record<string, () => void> = {
    "taken one by one": () => {
      const outbox = outboxOf(many, { capacity: many, keeps: false })
      for (let n = 0; n < many; n++) outbox.offer(queuedMessage("", "x"))
      while (outbox.hasWork) outbox.settle(outbox.take(1), true)
    },
    "that a full window does not block, taken one by one": () => {
      const outbox = outboxOf(1, { capacity: many })
      outbox.offer(queued("kept"))
      for (let n = 1; n < many; n++) outbox.offer(queuedMessage("", "x"))
      while (outbox.hasWork) outbox.settle(outbox.take(1), true)
    },
    "whose senders wait for room": () => {
      const outbox = outboxOf(1, { capacity: 1, keeps: false, overflow: "suspend" })
      for (let n = 0; n < many; n++) outbox.offer(queuedMessage("", "x"))
      while (outbox.hasWork) outbox.settle(outbox.take(1), true)
    },
    "that drop the oldest": () => {
      const outbox = outboxOf(1, { capacity: many / 2, keeps: false, overflow: "dropOldest" })
      for (let n = 0; n < many; n++) outbox.offer(queuedMessage("", "x"))
    },
    "that drop the oldest, behind messages to be sent again": () => {
      const outbox = outboxOf(many, { capacity: many / 2, overflow: "dropOldest" })
      for (let n = 0; n < many / 4; n++) outbox.offer(queued(String(n)))
      outbox.drainTo(connection)
      outbox.take(many)
      outbox.release(connection, true)
      for (let n = many / 4; n < many; n++) outbox.offer(queued(String(n)))
    },
    "behind subscriptions that are queued": () => {
      const outbox = outboxOf(many, { capacity: many, keeps: false })
      for (let n = 0; n < many / 2; n++) outbox.offer(queuedMessage("", "x", { only: connection }))
      for (let n = 0; n < many / 2; n++) outbox.offer(queuedMessage("", "x"))
    },
    "that expire one by one": () => {
      const outbox = outboxOf(many, { capacity: many, keeps: false })
      for (let n = 0; n < many; n++) outbox.offer(queuedMessage("", "x", { expiresAt: n }))
      for (let now = 0; now <= many; now++) outbox.expire(Math.min(now, outbox.nextExpiry ?? many))
      assert.isUndefined(outbox.nextExpiry)
    }
  }
  for (const [which, empty] of Object.entries(oneByOne)) {
    it(`of 200,000 messages needs linear time: messages ${which}`, () => {
      const since = performance.now()
      empty()
      assert.isBelow(performance.now() - since, 8_000)
    })
  }
})
