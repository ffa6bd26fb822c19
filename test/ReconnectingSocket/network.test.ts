import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import {
  dial,
  isDone,
  lossesOf,
  pass,
  recorded,
  serving,
  settle,
  steady,
  test
} from "../support/reconnectingSockets.js"

/** A network that the test turns on and off. */
class Network {
  isThere = true
  private readonly waiting = new Set<() => void>()
  get listeners(): number {
    return this.waiting.size
  }
  comes(): void {
    this.isThere = true
    for (const wake of Array.from(this.waiting)) wake()
  }
  private until(isOver: () => boolean): Effect.Effect<void> {
    return Effect.async<void>((resume) => {
      if (isOver()) return resume(Effect.void)
      const wake = () => {
        this.waiting.delete(wake)
        resume(Effect.void)
      }
      this.waiting.add(wake)
      return Effect.sync(() => this.waiting.delete(wake))
    })
  }
  readonly ready = Effect.suspend(() => this.until(() => this.isThere))
  readonly wake = Effect.suspend(() => this.until(() => false))
}

describe("a dialer that knows about the network", () => {
  const over = (
    network: { readonly ready?: Effect.Effect<void>; readonly wake?: Effect.Effect<void> },
    options: Partial<ReconnectingSocket.Options<WebSocketDialer.Message, WebSocketDialer.Message>> = {}
  ) =>
    Effect.gen(function*() {
      const { dial: dialOne } = yield* WebSocketDialer.WebSocketDialer
      const server = yield* serving
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady, ...options }).pipe(
        Effect.provideService(WebSocketDialer.WebSocketDialer, {
          dial: dialOne,
          ready: network.ready,
          wake: network.wake
        })
      )
      const events = yield* recorded(socket.events)
      return { server, socket, events: events.all }
    })

  test("W16: nothing is dialed and no attempt counted until it is ready, however long that takes", () =>
    Effect.gen(function*() {
      const network = new Network()
      network.isThere = false
      const { events, server, socket } = yield* over(network)
      yield* pass(3_600_000)
      assert.lengthOf(server.times, 0)
      assert.deepInclude((yield* socket.state) as object, { attempt: 0 })
      network.comes()
      yield* server.open
      assert.deepStrictEqual([server.times, lossesOf(events)], [[3_600_000], []])
    }))

  test("W16: a wait ends immediately when it wakes", () =>
    Effect.gen(function*() {
      const network = new Network()
      const { server } = yield* over(network)
      for (let n = 0; n < 4; n++) {
        yield* server.refuse(503)
        if (n < 3) yield* pass(2 ** n * 1000)
      }
      yield* pass(10)
      network.comes()
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 1000, 3000, 7000, 7010])
    }))

  test("W16: an open connection is pinged when it wakes, and is lost without an answer", () =>
    Effect.gen(function*() {
      const network = new Network()
      const { events, server, socket } = yield* over(network, {
        heartbeat: { interval: "1 hour", timeout: "5 seconds" }
      })
      const peer = yield* server.open
      yield* pass(60_000)
      network.comes()
      yield* pass(60_000)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      yield* peer.stall
      network.comes()
      yield* pass(4999)
      assert.deepStrictEqual(lossesOf(events), [])
      yield* pass(1)
      assert.deepStrictEqual(lossesOf(events), ["HeartbeatTimeout"])
    }))

  for (const isThere of [true, false]) {
    test(`W16: \`close\` ends the waits for it (${isThere ? "open" : "waiting"})`, () =>
      Effect.gen(function*() {
        const network = new Network()
        network.isThere = isThere
        const { server, socket } = yield* over(network)
        if (isThere) yield* server.open
        yield* socket.close()
        assert.strictEqual((yield* socket.state)._tag, "Closed")
        assert.strictEqual(network.listeners, 0)
      }))
  }

  test("W16: a dialer's `ready` or `wake` that dies is ignored", () =>
    Effect.gen(function*() {
      const dies = Effect.die("no network")
      const { server, socket } = yield* over({ ready: dies, wake: dies })
      yield* server.refuse(503)
      yield* pass(1000)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))
})

describe("layerGlobal", () => {
  /** The globals of a browser's page, for as long as the scope lasts. */
  const browser = Effect.acquireRelease(
    Effect.sync(() => {
      const names = ["navigator", "addEventListener", "removeEventListener"] as const
      const before = names.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)] as const)
      const target = new EventTarget()
      const navigator = { onLine: true }
      const listeners = new Set<unknown>()
      const define = (name: string, value: unknown) =>
        Object.defineProperty(globalThis, name, { value, configurable: true, writable: true })
      define("navigator", navigator)
      define("addEventListener", (type: string, listener: () => void) => {
        listeners.add(listener)
        target.addEventListener(type, listener)
      })
      define("removeEventListener", (type: string, listener: () => void) => {
        listeners.delete(listener)
        target.removeEventListener(type, listener)
      })
      return { navigator, listeners, online: () => target.dispatchEvent(new Event("online")), before }
    }),
    ({ before }) =>
      Effect.sync(() => {
        for (const [name, descriptor] of before) {
          if (descriptor === undefined) Reflect.deleteProperty(globalThis, name)
          else Object.defineProperty(globalThis, name, descriptor)
        }
      })
  )

  const service = Effect.provide(WebSocketDialer.WebSocketDialer, WebSocketDialer.layerGlobal)

  it.scoped("W16: is ready unless the page is offline, and wakes with `online`", () =>
    Effect.gen(function*() {
      const { listeners, navigator, online } = yield* browser
      const { ready, wake } = yield* service
      yield* ready!
      navigator.onLine = false
      const waiting = yield* Effect.fork(ready!)
      const waking = yield* Effect.fork(wake!)
      const given = yield* Effect.fork(wake!)
      yield* TestClock.adjust("1 hour")
      assert.isFalse((yield* isDone(waiting)) || (yield* isDone(waking)))
      yield* Fiber.interrupt(given)
      navigator.onLine = true
      online()
      yield* Fiber.join(Fiber.zip(waiting, waking))
      assert.strictEqual(listeners.size, 0)
    }))

  it.scoped("W16: is always ready, and never wakes, on a platform without these events", () =>
    Effect.gen(function*() {
      const { ready, wake } = yield* service
      yield* ready!
      const waking = yield* Effect.fork(wake!)
      yield* settle
      assert.isFalse(yield* isDone(waking))
      yield* Fiber.interrupt(waking)
    }))
})
