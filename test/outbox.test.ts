import { assert, describe, it } from "@effect/vitest"
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
  it("is not flushed while one is queued that another, for its connection only, has passed", () => {
    const outbox = outboxOf(1)
    for (const message of ["0", "1"]) outbox.offer(entryOf(message))
    assert.deepStrictEqual(messagesOf(outbox.take(100)), ["0"])
    let isFlushed = false
    outbox.onFlushed(() => {
      isFlushed = true
    })
    outbox.offer(entryOf("only", {}))
    const only = outbox.take(100)
    assert.deepStrictEqual(messagesOf(only), ["only"])
    outbox.acknowledge("0")
    assert.isFalse(isFlushed)
    outbox.settle(only, true)
    assert.isFalse(isFlushed)
    assert.deepStrictEqual(messagesOf(outbox.take(100)), ["1"])
    outbox.acknowledge("1")
    assert.isTrue(isFlushed)
  })

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
