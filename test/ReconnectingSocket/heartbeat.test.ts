import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import {
  acknowledge,
  connected,
  dial,
  lossesOf,
  lost,
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

describe("the heartbeat", () => {
  test("W4: keeps a connection whose peer answers, however silent it is otherwise", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* pass(600_000)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "Lost"), [])
      assert.lengthOf(server.times, 1)
    }))

  it.scoped("W4: pings after 15 seconds of silence, and gives up 10 more later", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events } = yield* onWires([wire], { backoff: steady })
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(1)
      assert.strictEqual(wire.pings, 1)
      yield* pass(9_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
      assert.isTrue(wire.isTerminated)
    })
  })

  for (const ping of ["of its own", "without a ping"]) {
    it.scoped(`W4: at each beat lets the platform check whether the peer is closing, ${ping}`, () => {
      const wire = new Wire({ ping: false })
      let checks = 0
      const check = Effect.sync(() => {
        if (++checks === 3) wire.reset()
      })
      Object.assign(wire.connection, { check })
      return Effect.gen(function*() {
        const { events } = yield* onWires([wire, new Wire()], {
          backoff: steady,
          heartbeat: { interval: "4 seconds", timeout: "1 minute", ...ping === "of its own" && { ping: "ping" } }
        })
        yield* pass(11_999)
        assert.deepStrictEqual([checks, lossesOf(events)], [2, []])
        yield* pass(1)
        assert.deepStrictEqual([checks, lossesOf(events)], [3, ["Reset"]])
        yield* pass(60_000)
        assert.strictEqual(checks, 3)
      })
    })
  }

  it.scoped("W4: works with a fractional clock, by which the rest of a wait can be less than a nanosecond", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      // As a double, the time 15,000 ms after this one is 2e-12 ms less.
      yield* TestClock.adjust(1385.634)
      yield* onWires([wire], { backoff: steady })
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(2)
      assert.strictEqual(wire.pings, 1)
    })
  })

  for (const sign of ["a message", "a control frame", "what does not decode"] as const) {
    it.scoped(`W4: counts ${sign} as a sign of life, before and after its ping`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const { events } = yield* onWires([wire], {
          heartbeat: { interval: "4 seconds", timeout: "2 seconds" },
          codec: {
            encode: (message: string) => message,
            decode: (message) => {
              if (message === "bad") throw new Error("bad")
              return message
            }
          }
        })
        const live = () => sign === "a control frame" ? wire.control() : wire.say(sign === "a message" ? "x" : "bad")
        yield* pass(3_999)
        live()
        yield* pass(3_999)
        assert.strictEqual(wire.pings, 0)
        yield* pass(1)
        assert.strictEqual(wire.pings, 1)
        yield* pass(1_999)
        live()
        yield* pass(3_999)
        assert.deepStrictEqual([wire.pings, ofTag(events, "Lost").length], [1, 0])
        yield* pass(1)
        assert.strictEqual(wire.pings, 2)
        yield* pass(2_000)
        assert.lengthOf(ofTag(events, "Lost"), 1)
      })
    })
  }

  test("pings with the user's message, whose answer does not go to `messages`", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        heartbeat: {
          interval: "5 seconds",
          timeout: "1 seconds",
          ping: "ping",
          isPong: (message) => message === "pong"
        }
      }))
      const messages = yield* recorded(socket.messages)
      yield* pass(4_999)
      assert.deepStrictEqual(peer.got, [])
      yield* pass(1)
      assert.deepStrictEqual(peer.got, ["ping"])
      yield* pass(999)
      yield* peer.send("pong")
      yield* peer.send("news")
      yield* pass(5_000)
      assert.deepStrictEqual(peer.got, ["ping", "ping"])
      yield* pass(999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
      assert.deepStrictEqual(messages.all, ["news"])
    }))

  test("W4: pings on each connection, for as long as it lasts", () =>
    Effect.gen(function*() {
      const { peer, server } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        heartbeat: { interval: "5 seconds", timeout: "1 seconds", ping: "ping" }
      }))
      yield* pass(3_000)
      yield* peer.reset
      yield* pass(1_000)
      const second = yield* server.open
      yield* pass(4_999)
      assert.deepStrictEqual(second.got, [])
      yield* pass(1)
      assert.deepStrictEqual(second.got, ["ping"])
      assert.deepStrictEqual(peer.got, [])
    }))

  it.scoped("W13: counts no silence while reading is paused", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 2 } })
      yield* settle
      yield* pass(14_000)
      wire.say("1")
      wire.say("2")
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* pass(3_600_000)
      assert.deepStrictEqual([wire.pings, ofTag(events, "Lost").length], [0, 0])
      yield* Stream.runDrain(Stream.take(socket.messages, 2))
      yield* settle
      assert.isFalse(wire.isPaused)
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(1)
      assert.strictEqual(wire.pings, 1)
      yield* pass(10_000)
      assert.lengthOf(ofTag(events, "Lost"), 1)
    })
  })

  it.scoped("W13: has its deadline stopped by a pause that comes after the ping", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 1 } })
      yield* pass(15_000)
      yield* pass(5_000)
      wire.say("1")
      yield* pass(3_600_000)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* Stream.runDrain(Stream.take(socket.messages, 1))
      yield* pass(24_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.lengthOf(ofTag(events, "Lost"), 1)
    })
  })

  for (
    const [name, can, heartbeat] of [["the platform has no ping", { ping: false }, undefined], [
      "it is off",
      {},
      false
    ]] as const
  ) {
    it.scoped(`does not ping if ${name}`, () => {
      const wire = new Wire(can)
      return Effect.gen(function*() {
        const { events, socket } = yield* onWires([wire], { heartbeat })
        yield* pass(3_600_000)
        assert.strictEqual((yield* socket.state)._tag, "Open")
        assert.deepStrictEqual([wire.pings, wire.taken.length, ofTag(events, "Lost").length], [0, 0, 0])
      })
    })
  }

  it.scoped("pings with the user's message if the platform has no ping", () => {
    const wire = new Wire({ ping: false })
    return Effect.gen(function*() {
      yield* onWires([wire], { heartbeat: { ping: "ping" } })
      yield* pass(15_000)
      assert.deepStrictEqual(wire.taken, ["ping"])
    })
  })

  it.scoped("W4: is not delayed by a write that hangs", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { backoff: steady, writeTimeout: "10 minutes" })
      yield* settle
      yield* socket.send("stuck")
      yield* pass(25_000)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
    })
  })

  for (const when of ["before", "after"]) {
    it.scoped(`W4: is not delayed by a clock that is set back, ${when} it has sent a ping`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const clock = yield* Effect.clock
        let back = 0
        const now = () => clock.unsafeCurrentTimeMillis() - back
        const { events } = yield* Effect.withClock(onWires([wire], { backoff: steady }), {
          [Clock.ClockTypeId]: Clock.ClockTypeId,
          unsafeCurrentTimeMillis: now,
          unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
          currentTimeMillis: Effect.sync(now),
          currentTimeNanos: clock.currentTimeNanos,
          sleep: (duration) => clock.sleep(duration)
        })
        yield* settle
        yield* pass(when === "before" ? 14_000 : 16_000)
        back = 3_600_000
        for (let second = 0; second < 30; second++) yield* pass(1_000)
        assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost("HeartbeatTimeout")])
      })
    })
  }
})

describe("the user's ping", () => {
  test("W4: that is a function makes the message each time, on each connection", () =>
    Effect.gen(function*() {
      let sequence = 0
      const { peer, server } = yield* opened({
        heartbeat: { interval: "5 seconds", timeout: "4 seconds", ping: () => `beat ${sequence}` }
      })
      for (sequence of [1, 2]) {
        yield* pass(5_000)
        yield* peer.send("news")
      }
      assert.deepStrictEqual(peer.got, ["beat 1", "beat 2"])
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      sequence = 3
      yield* pass(5_000)
      assert.deepStrictEqual(next.got, ["beat 3"])
    }))

  const odd = {
    "throws": () => {
      throw new Error("odd")
    },
    "gives a message that cannot be encoded": () => 1 as never
  }
  for (const [how, ping] of Object.entries(odd)) {
    it.scoped(`W8: that ${how} is an event, and a protocol ping is sent instead`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const { events } = yield* onWires([wire], { backoff: steady, heartbeat: { ping, always: true } })
        yield* pass(15_000)
        assert.deepStrictEqual([wire.pings, wire.taken], [1, []])
        assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["ping"])
        yield* pass(10_000)
        assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
      })
    })
  }

  it.scoped("W8: that throws if the platform has no ping sends no ping, and no answer is awaited", () => {
    const wire = new Wire({ ping: false })
    return Effect.gen(function*() {
      const { events } = yield* onWires([wire], { heartbeat: { ping: odd.throws } })
      yield* pass(600_000)
      assert.deepStrictEqual(lossesOf(events), [])
      assert.isAbove(ofTag(events, "Rejected").length, 1)
    })
  })

  for (const [where, can] of [["with", {}], ["without", { ping: false }]] as const) {
    it.scoped(`W4: that is false sends no ping, and silence ends a connection ${where} protocol pings`, () => {
      const wire = new Wire(can)
      return Effect.gen(function*() {
        const { events } = yield* onWires([wire], {
          backoff: steady,
          heartbeat: { interval: "30 seconds", timeout: "5 seconds", ping: false }
        })
        yield* pass(34_999)
        wire.say("a sign")
        yield* pass(34_999)
        wire.control()
        yield* pass(34_999)
        assert.deepStrictEqual(lossesOf(events), [])
        yield* pass(1)
        assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
        assert.deepStrictEqual([wire.pings, wire.taken], [0, []])
      })
    })
  }

  it.scoped("W13: that is false counts no silence while reading is paused", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 1 }, heartbeat: { ping: false } })
      yield* settle
      wire.say("1")
      yield* pass(3_600_000)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* Stream.runDrain(Stream.take(socket.messages, 1))
      yield* pass(24_999)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* pass(1)
      assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
    })
  })
})

describe("a heartbeat with `always`", () => {
  const always = { interval: "4 seconds", timeout: "3 seconds", always: true } as const

  /** The peer sends a message every second. */
  const talking = (wire: Wire, seconds: number, message = "tick") =>
    Effect.forEach(
      Array.from({ length: seconds }),
      () => Effect.tap(pass(1_000), () => Effect.sync(() => wire.say(message)))
    )

  it.scoped("W4: pings even if messages arrive, and without `isPong` any frame is an answer", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events } = yield* onWires([wire], { backoff: steady, heartbeat: always })
      yield* talking(wire, 12)
      assert.strictEqual(wire.pings, 3)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* pass(4_000)
      yield* pass(2_999)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* pass(1)
      assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
    })
  })

  it.scoped("W4: with `isPong` only a pong is an answer, whatever else the peer sends", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], {
        backoff: steady,
        heartbeat: { ...always, ping: "ping", isPong: (message) => message === "pong" }
      })
      yield* Effect.forkScoped(Stream.runDrain(socket.messages))
      yield* talking(wire, 5)
      assert.deepStrictEqual(wire.taken, ["ping"])
      yield* talking(wire, 1, "pong")
      yield* talking(wire, 4)
      assert.deepStrictEqual(wire.taken, ["ping", "ping"])
      assert.deepStrictEqual(lossesOf(events), [])
      wire.control()
      yield* pass(999)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* pass(1)
      assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
    })
  })

  it.scoped("W4: goes on pinging while an answer is awaited for longer than an interval", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events } = yield* onWires([wire], {
        backoff: steady,
        heartbeat: { ...always, timeout: "10 seconds", ping: "ping", isPong: (message) => message === "pong" }
      })
      yield* pass(13_000)
      assert.deepStrictEqual(wire.taken, ["ping", "ping", "ping"])
      yield* pass(999)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* pass(1)
      assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
    })
  })

  for (const rest of [1_000, 10_000]) {
    it.scoped(`W13: is heard while reading is paused, and its deadline stops, for ${rest / 1_000} seconds`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const { events, socket } = yield* onWires([wire], {
          backoff: steady,
          inbox: { capacity: 1 },
          heartbeat: { ...always, ping: "ping", isPong: (message) => message === "pong" }
        })
        yield* pass(4_000)
        yield* pass(1_000)
        wire.say("1")
        yield* pass(rest)
        assert.lengthOf(wire.taken, 1 + Math.floor((1_000 + rest) / 4_000))
        yield* Stream.runDrain(Stream.take(socket.messages, 1))
        yield* settle
        assert.isFalse(wire.isPaused)
        yield* pass(2_500)
        assert.deepStrictEqual(lossesOf(events), [])
        yield* pass(4_500)
        assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
      })
    })
  }
})

describe("the peer's own ping", () => {
  const answer = (message: string) =>
    message.startsWith("PING") ? Option.some(message.replace("I", "O")) : Option.none()

  test("W14: is answered each time, and does not go to `messages`", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ heartbeat: { answer } })
      const messages = yield* recorded(socket.messages)
      for (const message of ["a", "PING 1", "b", "PING 2", "PING 3"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(peer.got, ["PONG 1", "PONG 2", "PONG 3"])
      assert.deepStrictEqual(messages.all, ["a", "b"])
    }))

  it.scoped("W14: is answered without the outbox, even if the window is full", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires<string, string>([wire], {
        codec: { encode: (message) => message, decode: String },
        acknowledge: { ...acknowledge, window: 2 },
        heartbeat: { answer }
      })
      yield* settle
      for (const message of ["1", "2", "3", "4"]) yield* socket.send(message)
      yield* settle
      wire.say("PING")
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken.filter((message) => message !== "1" && message !== "2"), ["PONG"])
      wire.say("ack 2")
      wire.say("PING")
      yield* settle
      assert.deepStrictEqual(wire.taken.slice(3), ["3", "4", "PONG"])
    })
  })

  test("W14: is received by a login, and answered before the login is over", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const { peer, socket } = yield* opened({
        heartbeat: { answer },
        onOpen: ({ receive }) =>
          Effect.repeat(Effect.tap(receive, (message) => seen.push(message)), { until: (message) => message === "end" })
      })
      const messages = yield* recorded(socket.messages)
      yield* peer.send("PING")
      yield* settle
      assert.deepStrictEqual(peer.got, ["PONG"])
      yield* peer.send("end")
      yield* settle
      assert.deepStrictEqual([seen, messages.all], [["PING", "end"], []])
    }))

  const odd: Record<string, (message: string) => Option.Option<string>> = {
    "throws": () => {
      throw new Error("odd")
    },
    "gives no Option": () => "PONG" as never,
    "gives a message that cannot be encoded": () => Option.some(1 as never)
  }
  for (const [how, answer] of Object.entries(odd)) {
    test(`W8: whose answer ${how} is an event, and the ping goes to \`messages\``, () =>
      Effect.gen(function*() {
        const { events, peer, socket } = yield* opened({ heartbeat: { answer } })
        const messages = yield* recorded(socket.messages)
        yield* peer.send("PING")
        yield* settle
        assert.deepStrictEqual([messages.all, peer.got], [["PING"], []])
        assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback, message }) => [callback, message]), [
          ["answer", "PING"]
        ])
      }))
  }

  test("W4: is not answered without a limit if the peer does not read", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* opened({ heartbeat: { answer } })
      yield* peer.stall
      yield* peer.send("PING")
      yield* settle
      for (let n = 0; n < 1_024; n++) yield* peer.send("PING")
      assert.deepStrictEqual(lossesOf(events), [])
      yield* peer.send("PING")
      yield* settle
      assert.deepStrictEqual(lossesOf(events), ["WriteTimeout"])
    }))
})
