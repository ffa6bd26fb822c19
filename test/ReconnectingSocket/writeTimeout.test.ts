import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { lost, ofTag, onWires, pass, settle, steady, Wire } from "../support/reconnectingSockets.js"

describe("a write that takes too long", () => {
  it.scoped("W4: ends the connection after the write timeout, to the millisecond", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { backoff: steady, writeTimeout: "5 seconds" })
      yield* pass(1_000)
      yield* socket.send("a")
      yield* pass(3_000)
      wire.take()
      yield* settle
      yield* pass(1_000)
      yield* socket.send("b")
      yield* pass(4_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "WriteTimeout" })
      assert.isTrue(wire.isTerminated)
    })
  })

  it.scoped("W4: is one write, not many that follow one another", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], {
        heartbeat: false,
        writeTimeout: "5 seconds",
        outbox: { window: 1 }
      })
      yield* settle
      for (let n = 0; n < 20; n++) yield* socket.send(`${n}`)
      for (let n = 0; n < 20; n++) {
        yield* pass(4_000)
        wire.take()
        yield* settle
      }
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.lengthOf(wire.taken, 20)
    })
  })

  it.scoped("W4: is a WriteTimeout also if the login writes, or the heartbeat sends a ping message", () => {
    const wires = [new Wire({ isHeld: true }), new Wire({ isHeld: true })]
    return Effect.gen(function*() {
      let opens = 0
      const { events } = yield* onWires(wires, {
        backoff: steady,
        writeTimeout: "3 seconds",
        heartbeat: { interval: "4 seconds", ping: "ping" },
        onOpen: ({ send }) => opens++ === 0 ? send("login") : Effect.void
      })
      yield* pass(3_000)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "WriteTimeout" })
      yield* pass(1_000)
      yield* pass(7_000)
      assert.deepInclude(ofTag(events, "Lost")[1]!.failure as object, { reason: "WriteTimeout" })
    })
  })

  it.scoped("W4: is a WriteTimeout also for a platform's ping, even if the peer still sends messages", () => {
    const wire = new Wire()
    Object.assign(wire.connection, { ping: Option.some(Effect.never) })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { backoff: steady, writeTimeout: "5 seconds" })
      yield* pass(15_000)
      yield* socket.send("a")
      yield* pass(4_999)
      wire.say("news")
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost("WriteTimeout")])
    })
  })
})
