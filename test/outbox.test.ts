import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type Entry, Outbox } from "../src/internal/outbox.js"

const entryOf = (message: string, only?: object): Entry<string> => ({
  message,
  data: message,
  bytes: message.length,
  id: message,
  expiresAt: Infinity,
  only,
  onAccepted: undefined,
  onDone: undefined,
  place: 0,
  isHanded: false
})

const outboxOf = (inFlight: number) =>
  new Outbox<string>({ capacity: 10, bytes: 1_000, overflow: "fail", keeps: true, inFlight }, () => {})

const messagesOf = (entries: ReadonlyArray<Entry<string>>) => entries.map(({ message }) => message)

describe("an outbox whose window is full", () => {
  it.effect("is not flushed while one is queued that another, for its connection only, has passed", () =>
    Effect.gen(function*() {
      const outbox = outboxOf(1)
      for (const message of ["0", "1"]) outbox.offer(entryOf(message))
      assert.deepStrictEqual(messagesOf(outbox.take(100)), ["0"])
      const flushing = yield* Effect.fork(outbox.flushed)
      const isFlushed = Effect.map(Effect.yieldNow(), () => flushing.unsafePoll() !== null)
      assert.isFalse(yield* isFlushed)
      outbox.offer(entryOf("only", {}))
      const only = outbox.take(100)
      assert.deepStrictEqual(messagesOf(only), ["only"])
      outbox.acknowledge("0")
      assert.isFalse(yield* isFlushed)
      outbox.settle(only, true)
      assert.isFalse(yield* isFlushed)
      assert.deepStrictEqual(messagesOf(outbox.take(100)), ["1"])
      outbox.acknowledge("1")
      assert.isTrue(yield* isFlushed)
    }))

  it("forgets what is for a connection only with that, and keeps the others in order", () => {
    const outbox = outboxOf(2)
    const connection = {}
    for (const message of ["0", "1", "2"]) outbox.offer(entryOf(message))
    outbox.take(100)
    outbox.offer(entryOf("only", connection))
    outbox.letGo(connection)
    assert.deepStrictEqual(messagesOf(outbox.take(100)), ["0", "1"])
    assert.isFalse(outbox.hasWork)
    outbox.acknowledge("1")
    assert.deepStrictEqual(messagesOf(outbox.take(100)), ["2"])
  })
})
