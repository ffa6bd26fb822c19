import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Outbox, type QueuedMessage, queuedMessage } from "../../src/internal/socket/outbox.js"

const queued = (message: string, only?: object) => queuedMessage(message, message, { id: message, ...only && { only } })

const outboxOf = (inFlight: number) =>
  new Outbox<string>({
    capacity: 10,
    bytes: 1_000,
    overflow: "fail",
    keeps: true,
    isCumulative: true,
    inFlight,
    maxResends: Infinity
  }, { now: () => 0, onChanged: () => {}, onUndelivered: () => {}, resent: () => undefined })

const connection = { wakeWriter: () => {} }

const messagesOf = (all: ReadonlyArray<QueuedMessage<string>>) => all.map(({ message }) => message)

describe("an outbox whose window is full", () => {
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
