/**
 * The private parts of Effect, of platform, of Node and of test runners that `src` relies on. Each title begins with
 * the name of the part, as docs/architecture.md lists it, and ends with what breaks when the part has changed.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Undici from "@effect/platform-node/Undici"
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerError from "@effect/platform/HttpServerError"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import { globalValue } from "effect/GlobalValue"
import * as Hash from "effect/Hash"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import type * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Supervisor from "effect/Supervisor"
import { createHook } from "node:async_hooks"
import * as DiagnosticsChannel from "node:diagnostics_channel"
import { readFile } from "node:fs"
import * as Http from "node:http"
import * as Https from "node:https"
import * as Net from "node:net"
import * as Tls from "node:tls"
import { vi } from "vitest"
import { WebSocket } from "ws"
import { readTlsSession } from "../src/internal/tlsSession.js"
import { interruptedInFinalizer } from "./support/finalizers.js"
import { clients } from "./support/httpClients.js"
import { eventually, serve } from "./support/httpServer.js"
import { closeFrame, halfOpen } from "./support/loopbackWebSockets.js"
import { serving } from "./support/tlsClients.js"

type Parts = Readonly<Record<string, any>>

// -----------------------------------------------------------------------------
// Effect
// -----------------------------------------------------------------------------

/** The methods of a `Map` that only read. */
const reads = new Set<unknown>(["get", "has", "size", "entries", "keys", "values", "forEach", Symbol.iterator])

/** A map that notes what it is asked for. */
const watchedMap = <K, V>(map: Map<K, V>) => {
  const asked = new Set<unknown>()
  return {
    asked,
    map: new Proxy(map, {
      get: (target, name) => {
        asked.add(name)
        const value: unknown = Reflect.get(target, name, target)
        return typeof value === "function" ? value.bind(target) : value
      }
    })
  }
}

/** Runs an effect step by step, and notes what its scheduler is asked and given. */
const scheduled = (effect: Effect.Effect<unknown>, preempted = 0) => {
  const tasks: Array<Scheduler.Task> = []
  const asked: Array<unknown> = []
  const given: Array<unknown> = []
  const fiber = Runtime.runFork(Runtime.defaultRuntime, effect, {
    immediate: false,
    scheduler: {
      shouldYield: (fiber) => asked.push(fiber) === preempted ? 0 : false,
      scheduleTask: (task, _priority, fiber) => {
        tasks.push(task)
        given.push(fiber)
      }
    }
  })
  for (const task of tasks) task()
  return { fiber, asked, given }
}

/**
 * The same, with the operations as a supervisor sees them, and the order in which the supervisor and the scheduler are
 * called.
 */
const observed = (effect: Effect.Effect<unknown>) => {
  const order: Array<"operation" | "scheduler"> = []
  const operations: Array<Parts> = []
  class Operations extends Supervisor.AbstractSupervisor<void> {
    readonly value = Effect.void
    override onEffect(_: unknown, operation: unknown): void {
      order.push("operation")
      operations.push(operation as Parts)
    }
  }
  const runtime = Runtime.make({
    context: Context.empty(),
    runtimeFlags: RuntimeFlags.enable(Runtime.defaultRuntimeFlags, RuntimeFlags.OpSupervision),
    fiberRefs: FiberRefs.updateAs(Runtime.defaultRuntime.fiberRefs, {
      fiberId: FiberId.unsafeMake(),
      fiberRef: FiberRef.currentSupervisor,
      value: new Operations()
    })
  })
  const tasks: Array<Scheduler.Task> = []
  Runtime.runFork(runtime, effect, {
    immediate: false,
    scheduler: {
      shouldYield: () => {
        order.push("scheduler")
        return false
      },
      scheduleTask: (task) => tasks.push(task)
    }
  })
  for (const task of tasks) task()
  return { order, operations }
}

describe("Effect", () => {
  it.effect("fiber._fiberRefs: holds the references that `setFiberRefs` sets (else transactions are slower)", () =>
    Effect.withFiberRuntime((fiber) => {
      const inside = fiber as unknown as Parts
      const before: FiberRefs.FiberRefs = inside["_fiberRefs"]
      assert.deepStrictEqual([...before.locals.keys()], [...fiber.getFiberRefs().locals.keys()])
      const changed = FiberRefs.unsafeMake(new Map(before.locals))
      inside["setFiberRefs"](changed)
      assert.strictEqual(inside["_fiberRefs"], changed)
      inside["setFiberRefs"](before)
      return Effect.void
    }))

  it("FiberRefs.locals: is a map of stacks that is only read, a fiber's own on top (else a transaction leaks)", () => {
    const ref = FiberRef.unsafeMake("none")
    const [id, stack] = Effect.runSync(Effect.locally(
      Effect.withFiberRuntime<readonly [FiberId.FiberId, unknown]>((fiber) =>
        Effect.succeed([fiber.id(), fiber.getFiberRefs().locals.get(ref)])
      ),
      ref,
      "red"
    ))
    assert.deepStrictEqual(stack, [[id, "red"]])

    // No map is changed in place, and only the reading methods of a `Map` are used.
    const { asked, map } = watchedMap(
      new Map<FiberRef.FiberRef<any>, readonly [readonly [FiberId.Single, unknown]]>([[ref, [[FiberId.none, "blue"]]]])
    )
    const refs = FiberRefs.unsafeMake(map)
    const fiberId = FiberId.unsafeMake()
    const forked = FiberRefs.forkAs(refs, fiberId)
    FiberRefs.joinAs(refs, fiberId, FiberRefs.updateAs(forked, { fiberId, fiberRef: ref, value: "green" }))
    FiberRefs.delete(FiberRefs.updateAs(refs, { fiberId, fiberRef: ref, value: "white" }), ref)
    assert.deepStrictEqual([...asked].filter((name) => !reads.has(name)), [])
    assert.deepStrictEqual([...map], [[ref, [[FiberId.none, "blue"]]]])
  })

  it.effect("FiberRefs.locals: is only read, by a fork and a join too (else a transaction's references are lost)", () =>
    Effect.gen(function*() {
      const ref = FiberRef.unsafeMake("none")
      const refuse = (): never => assert.fail("the map was changed in place")
      yield* Effect.withFiberRuntime<void>((fiber) => {
        const locals = Object.assign(new Map(fiber.getFiberRefs().locals), {
          set: refuse,
          delete: refuse,
          clear: refuse
        })
        ;(fiber as unknown as Parts)["setFiberRefs"](FiberRefs.unsafeMake(locals))
        const child = Effect.zipRight(FiberRef.set(ref, "red"), FiberRef.get(ref))
        return Effect.fork(child).pipe(
          Effect.flatMap(Fiber.join),
          Effect.zipRight(Effect.locally(FiberRef.update(ref, (color) => `${color}dish`), ref, "blue")),
          Effect.zipRight(FiberRef.delete(ref))
        )
      })
      assert.strictEqual(yield* FiberRef.get(ref), "none")
    }))

  it("scope.state: `forkIn` reads it in the step in which the fiber starts (else D3 sees no fiber)", () => {
    const read: Array<number> = []
    const started: Array<number> = []
    class Starts extends Supervisor.AbstractSupervisor<void> {
      readonly value = Effect.void
      override onStart(_: unknown, __: unknown, parent: Option.Option<Fiber.RuntimeFiber<unknown, unknown>>): void {
        started.push(Option.getOrThrow(parent).currentOpCount)
      }
    }
    const operation = () => Option.getOrThrow(Fiber.getCurrentFiber()).currentOpCount
    const { size } = Effect.runSync(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { state } = scope as unknown as Parts
      Object.defineProperty(scope, "state", {
        get: () => {
          read.push(operation())
          return state
        }
      })
      yield* Effect.supervised(Effect.forkIn(Effect.never, scope), new Starts())
      return state["finalizers"]
    }))
    assert.strictEqual(size, 1)
    assert.isAbove(started[0]!, 0)
    assert.deepStrictEqual(read[0], started[0])
  })

  it("scope methods: all that a scope holds comes by addFinalizer, fork or state (else S10 counts every use)", () => {
    const seen = new Set<string>()
    Effect.runSync(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const parts = scope as unknown as Parts
      const noting = (name: string) => (argument: unknown) => {
        seen.add(name)
        return parts[name].call(scope, argument)
      }
      const watched: Scope.Scope = Object.create(scope, {
        addFinalizer: { value: noting("addFinalizer") },
        fork: { value: noting("fork") },
        state: {
          get: () => {
            seen.add("state")
            return parts["state"]
          }
        }
      })
      yield* Scope.addFinalizer(watched, Effect.void)
      assert.deepStrictEqual([...seen], ["addFinalizer"])
      yield* Scope.fork(watched, ExecutionStrategy.sequential)
      assert.deepStrictEqual([...seen], ["addFinalizer", "fork"])
      yield* Effect.forkIn(Effect.void, watched)
      assert.deepStrictEqual([...seen], ["addFinalizer", "fork", "state"])
    }))
  })

  it.live("addFinalizer: gives the closing fiber its references back (else closeScope needs no fiber of its own)", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* interruptedInFinalizer(Scope.close), Exit.succeed("went on"))
    }))

  it.live("fiber children: are interrupted with a fiber, even one that cannot be at the moment (else S10 hangs)", () =>
    Effect.gen(function*() {
      const waits: Array<Fiber.RuntimeFiber<never>> = []
      const waiting = Effect.uninterruptible(Effect.gen(function*() {
        for (let wait = 0; wait < 2; wait++) {
          waits.push(yield* Effect.fork(Effect.interruptible(Effect.never)))
          yield* Fiber.await(waits.at(-1)!)
        }
      }))
      const fiber = yield* Effect.fork(waiting)
      for (let wait = 1; wait <= 2; wait++) {
        yield* eventually(Effect.sync(() => waits.length === wait))
        fiber.unsafeInterruptAsFork(FiberId.none)
      }
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(fiber)))
    }))

  it("context.unsafeMap: is all that a context asks of its services (else a transaction has no scope)", () => {
    const { asked, map } = watchedMap(new Map<string, unknown>([["color", "red"]]))
    const Color = Context.GenericTag<string>("color")
    const context = Context.unsafeMake<string>(map)
    assert.strictEqual(Context.get(context, Color), "red")
    const larger = Context.add(context, Context.GenericTag<number>("size"), 7)
    Context.merge(context, larger)
    Context.getOption(context, Color)
    assert.deepStrictEqual([...asked].filter((name) => !reads.has(name)), [])
    assert.strictEqual(Effect.runSync(Effect.provide(Color, larger)), "red")
  })

  it("Effect.Service: has the class of its instances above the tag (else a layer gives no instance)", () => {
    class Api extends Effect.Service<Api>()("Api", { succeed: { color: "red" } }) {}
    class Made {
      readonly color = "red"
    }
    // The first instance takes the tag's own prototype out of the chain.
    assert.strictEqual(new Api(new Made()).color, "red")
    const above = Object.getPrototypeOf(Api) as { readonly prototype: { readonly _tag: unknown } }
    assert.strictEqual(above.prototype._tag, Api.key)
    class Other extends Effect.Tag("Other")<Other, string>() {}
    assert.notProperty(Object.getPrototypeOf(Other).prototype ?? {}, "_tag")
  })

  it("effect._op: names an operation, and its fields hold the functions (else a failure's report has no names)", () => {
    const f = () => Effect.void
    const operation = Effect.flatMap(Effect.void, f) as unknown as Parts
    assert.strictEqual(operation["_op"], "OnSuccess")
    assert.strictEqual(operation["effect_instruction_i1"], f)
    const { operations } = observed(Effect.zipRight(Effect.yieldNow(), Effect.async(() => {}, FiberId.none)))
    assert.includeMembers(operations.map(({ _op }) => _op), ["Yield", "Async"])
    const waiting = operations.find(({ _op }) => _op === "Async")
    assert.isTrue(FiberId.isFiberId(waiting?.["effect_instruction_i1"]))
  })

  it("fiber._stack: holds the next operations (else a deadlock's report does not say which operation was next)", () => {
    const next = () => Effect.void
    const { fiber } = scheduled(Effect.flatMap(Effect.never, next))
    const stack: ReadonlyArray<Parts> = (fiber as unknown as Parts)["_stack"]
    assert.strictEqual(stack.find(({ _op }) => _op === "OnSuccess")?.["effect_instruction_i1"], next)
  })

  it("onEffect: is called before the scheduler is asked about the operation (else sweeps try twice)", () => {
    const { order } = observed(Effect.void)
    assert.deepStrictEqual(order.slice(0, 2), ["operation", "scheduler"])
    assert.strictEqual(order.length % 2, 0)
  })

  it("shouldYield: is asked before each operation, by its fiber (else no schedule preempts, I2)", () => {
    const one = scheduled(Effect.void)
    const three = scheduled(Effect.zipRight(Effect.void, Effect.void))
    assert.strictEqual(one.asked.length, 1)
    assert.isAbove(three.asked.length, 2)
    assert.isTrue(three.asked.every((fiber) => fiber === three.fiber))
    // A fiber that was preempted makes the same number of operations more, whatever it was about to do.
    assert.strictEqual(
      scheduled(Effect.void, 1).asked.length - one.asked.length,
      scheduled(Effect.zipRight(Effect.void, Effect.void), 2).asked.length - three.asked.length
    )
  })

  it("scheduleTask: is given the fiber of a task (else the explorer cannot distinguish fibers, I1)", () => {
    const { fiber, given } = scheduled(Effect.yieldNow())
    assert.isAbove(given.length, 1)
    assert.isTrue(given.every((one) => one === fiber))
  })

  it("Hash.random: draws from Math.random at the first use (else a replay takes another order, I1)", () => {
    const { random } = Math
    try {
      Math.random = () => 0.5
      assert.strictEqual(Hash.random({}), Hash.random({}))
      Math.random = () => 0.25
      assert.notStrictEqual(Hash.random({}), Hash.number(Math.floor(0.5 * Number.MAX_SAFE_INTEGER)))
    } finally {
      Math.random = random
    }
  })

  it("Effect.never: keeps a process alive by the longest timer (else every deadlock is reported as escaped)", () => {
    const timers = resourcesOf(() => Effect.runFork(Effect.never).unsafeInterruptAsFork(FiberId.none))
      .filter(({ type }) => type === "Timeout")
    assert.deepStrictEqual(timers.map(({ object }) => object["_idleTimeout"]), [2 ** 31 - 1])
    for (const { object } of timers) clearInterval(object as unknown as NodeJS.Timeout)
  })
})

// -----------------------------------------------------------------------------
// platform
// -----------------------------------------------------------------------------

/** Serves an app on Node, and gives its URL. */
const served = (app: HttpApp.Default) =>
  Effect.gen(function*() {
    const context = yield* Layer.build(NodeHttpServer.layer(() => Http.createServer(), { port: 0, host: "127.0.0.1" }))
    const server = Context.get(context, HttpServer.HttpServer)
    yield* Effect.provide(HttpServer.serveEffect(app), context)
    assert.ok(server.address._tag === "TcpAddress")
    return `http://127.0.0.1:${server.address.port}`
  })

/** The values that an app reads from a request, which is answered. */
const seenBy = <A>(see: (request: HttpServerRequest.HttpServerRequest) => A) =>
  Effect.gen(function*() {
    const seen: Array<A> = []
    const url = yield* served(Effect.map(HttpServerRequest.HttpServerRequest, (request) => {
      seen.push(see(request))
      return HttpServerResponse.empty()
    }))
    yield* Effect.promise(() => fetch(url))
    return seen[0]!
  })

describe("platform", () => {
  it.scopedLive.each(clients)(
    "response.controller: aborts its request, over %s (else every refused body is read as a stream)",
    ([, layer]) =>
      Effect.gen(function*() {
        const server = yield* serve(() => ({ body: "ok" }))
        const response = yield* HttpClient.get(server.url)
        assert.instanceOf((response as unknown as Parts)["controller"], AbortController)
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive.each(clients.slice(0, 2))(
    "response.original: has its client's own body, over %s (else a burst of refusals takes a tenth longer)",
    ([, layer]) =>
      Effect.gen(function*() {
        const server = yield* serve(() => ({ body: "ok" }))
        const { original } = (yield* HttpClient.get(server.url)) as { original?: { source?: any } }
        const body = typeof original?.source?.arrayBuffer === "function" ? original.source : original?.source?.body
        const buffer = yield* Effect.promise((): Promise<ArrayBuffer> => body.arrayBuffer())
        assert.strictEqual(new TextDecoder().decode(buffer), "ok")
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive.each(clients)(
    "response.original: has each Set-Cookie line, over %s (else cookies of one name are lost over fetch, J2)",
    ([, layer]) =>
      Effect.gen(function*() {
        const cookies = ["a=1; Path=/x", "a=2"]
        const server = yield* serve(() => ({ headers: { "set-cookie": cookies }, body: "ok" }))
        const response = yield* HttpClient.get(server.url)
        const { headers } = (response as unknown as { readonly original: { readonly source: any } }).original.source
        assert.deepStrictEqual(headers instanceof Headers ? headers.getSetCookie() : headers["set-cookie"], cookies)
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive.each(clients)(
    "scopedRequests: names the request that `withScope` aborts, over %s (else M3 holds until it is collected)",
    ([, layer]) =>
      Effect.gen(function*() {
        const server = yield* serve(() => ({ body: "ok" }))
        const client = HttpClient.withScope(yield* HttpClient.HttpClient)
        const request = HttpClientRequest.get(server.url)
        yield* client.execute(request)
        const requests = globalValue("@effect/platform/HttpClient/scopedRequests", () =>
          new WeakMap<object, AbortController>())
        assert.instanceOf(requests.get(request), AbortController)
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive.each(clients)(
    "textBody, textEffect: one of them has the text that was read, over %s (else `rejected` loses a body)",
    ([, layer]) =>
      Effect.gen(function*() {
        const server = yield* serve(() => ({ body: "ok" }))
        const response = yield* HttpClient.get(server.url)
        const kept = () => {
          const { original, textBody, textEffect } = response as unknown as Parts
          return [textBody, textEffect, original?.["textBody"], original?.["textEffect"]].filter((it) =>
            it !== undefined
          )
        }
        assert.lengthOf(kept(), 0)
        assert.strictEqual(yield* response.text, "ok")
        assert.isNotEmpty(kept())
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive("the empty 500: is one object, shown to the handlers of responses before it goes out (else D5)", () =>
    Effect.gen(function*() {
      const known = HttpServerError.exitResponse(Exit.die(undefined))
      assert.strictEqual(HttpServerError.exitResponse(Exit.die("another")), known)
      const shown: Array<HttpServerResponse.HttpServerResponse> = []
      const url = yield* served(Effect.zipRight(
        HttpApp.appendPreResponseHandler((_, response) => {
          shown.push(response)
          return Effect.succeed(HttpServerResponse.text("instead", { status: 418 }))
        }),
        Effect.die("a defect")
      ))
      assert.strictEqual((yield* Effect.promise(() => fetch(url))).status, 418)
      assert.strictEqual(shown[0], known)
    }))

  it.scopedLive("request.source: is Node's, with its socket (else a termination waits for idle connections, D2)", () =>
    Effect.gen(function*() {
      const isNodes = yield* seenBy(({ source }) =>
        source instanceof Http.IncomingMessage && source.socket instanceof Net.Socket
      )
      assert.isTrue(isNodes)
    }))

  it.scopedLive("request.resolvedResponse: is Node's own response (else earlier responses are cut off, D2)", () =>
    Effect.gen(function*() {
      const isNodes = yield* seenBy((request) =>
        (request as unknown as Parts)["resolvedResponse"] instanceof Http.ServerResponse
      )
      assert.isTrue(isNodes)
    }))

  it.scopedLive("request.modify: makes the requests of routers; `upgrade` is read from them (else no 1001, D4)", () =>
    Effect.gen(function*() {
      const upgrade = Effect.die("noted")
      const seen: Array<unknown> = []
      const app = HttpRouter.empty.pipe(
        HttpRouter.mountApp(
          "/mounted",
          Effect.map(HttpServerRequest.HttpServerRequest, (request) => {
            seen.push(request.upgrade)
            return HttpServerResponse.empty()
          })
        )
      )
      const noted = Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
        const noting = new Proxy(request, {
          get: (target, name) => {
            if (name === "modify") return () => new Proxy(target, { get: (_, name) => name === "upgrade" && upgrade })
            const value: unknown = Reflect.get(target, name, target)
            return typeof value === "function" ? value.bind(target) : value
          }
        })
        return Effect.provideService(app, HttpServerRequest.HttpServerRequest, noting)
      })
      const url = yield* served(Effect.orDie(noted))
      yield* Effect.promise(() => fetch(`${url}/mounted`))
      assert.deepStrictEqual(seen, [upgrade])
    }))

  it.scopedLive("multipart errors: have these tags (else a client that sends nonsense ends the server, D1)", () =>
    Effect.gen(function*() {
      const faults: Array<unknown> = []
      const url = yield* served(Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
        Effect.map(
          Effect.exit(Stream.runForEach(
            request.multipartStream,
            (part) => part._tag === "File" ? Stream.runDrain(part.content) : Effect.void
          )),
          (exit) => {
            faults.push(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined)
            return HttpServerResponse.empty()
          }
        )))
      const part = "--b\r\ncontent-disposition: form-data; name=x; filename=f\r\n\r\ncut off"
      for (const type of ["multipart/form-data", "multipart/form-data; boundary=b"]) {
        yield* Effect.promise(() => fetch(url, { method: "POST", body: part, headers: { "content-type": type } }))
      }
      const described = faults.map((fault) => {
        const { _tag, cause, code, context, reason } = fault as Parts
        return _tag === undefined ? [code, context?._tag] : [_tag, reason, cause?._tag]
      })
      assert.deepStrictEqual(described, [
        ["ERR_UNHANDLED_ERROR", "InvalidBoundary"],
        ["MultipartError", "InternalError", "EndNotReached"]
      ])
    }))
})

// -----------------------------------------------------------------------------
// Node
// -----------------------------------------------------------------------------

interface Resource {
  readonly type: string
  readonly object: Parts
}

/** The resources that Node's `async_hooks` report for synchronous work. */
const resourcesOf = (work: () => void): ReadonlyArray<Resource> => {
  const resources: Array<Resource> = []
  const hook = createHook({ init: (_id, type, _trigger, object) => resources.push({ type, object: object as Parts }) })
  hook.enable()
  try {
    work()
  } finally {
    hook.disable()
  }
  return resources
}

const listening = Effect.acquireRelease(
  Effect.async<Http.Server>((resume) => {
    const server = Http.createServer((_, response) => response.end("ok"))
    server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
  }),
  (server) =>
    Effect.async<void>((resume) => {
      server.closeAllConnections()
      server.close(() => resume(Effect.void))
    })
)

const portOf = (server: Net.Server): number => (server.address() as Net.AddressInfo).port

const connected = (port: number) =>
  Effect.acquireRelease(
    Effect.async<Net.Socket>((resume) => {
      const socket = Net.connect(port, "127.0.0.1", () => resume(Effect.succeed(socket)))
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

describe("Node", () => {
  it.scopedLive("net.server.socket: reports accepted connections and their server (else silent ones delay D4)", () =>
    Effect.gen(function*() {
      const server = yield* listening
      const messages: Array<Parts> = []
      const note = (message: unknown) => messages.push((message as { readonly socket: Parts }).socket)
      DiagnosticsChannel.subscribe("net.server.socket", note)
      yield* connected(portOf(server))
      yield* eventually(Effect.sync(() => messages.length > 0))
      DiagnosticsChannel.unsubscribe("net.server.socket", note)
      assert.strictEqual(messages[0]!["server"], server)
    }))

  it.scopedLive("server.close: closes idle connections by its own method (else late responses are cut, D2)", () =>
    Effect.gen(function*() {
      const server = yield* listening
      let calls = 0
      server.closeIdleConnections = () => calls++
      server.close()
      assert.strictEqual(calls, 1)
    }))

  it.scopedLive("agent.addRequest: is given each request, with an `_agentKey` (else pools mix identities, C8)", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const names: Array<unknown> = []
      const requests: Array<unknown> = []
      class Watching extends Https.Agent {
        addRequest(request: Http.ClientRequest, options: object): void {
          requests.push(request)
          const pool = Https.Agent.prototype as unknown as { addRequest(...args: ReadonlyArray<unknown>): void }
          pool.addRequest.call(this, request, options)
        }
        override getName(options?: Https.RequestOptions): string {
          names.push((options as Parts)["_agentKey"])
          return super.getName(options)
        }
      }
      const agent = new Watching({ keepAlive: true, rejectUnauthorized: false })
      yield* Effect.addFinalizer(() => Effect.sync(() => agent.destroy()))
      const request = yield* Effect.async<Http.ClientRequest>((resume) => {
        const request = Https.get(
          server.url(),
          { agent },
          (response) => response.resume().on("close", () => resume(Effect.succeed(request)))
        )
      })
      assert.deepStrictEqual(requests, [request])
      yield* eventually(Effect.sync(() => names.at(-1) !== undefined))
      // While a connection is made for the request, it has no name. It keeps the one that it gets.
      assert.isUndefined(names[0])
      assert.isString(names.at(-1))
    }))

  it.scopedLive("tlsSocket.secureConnecting: is true until the handshake is done (else a ticket is lost, C1)", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const socket = Tls.connect({ port: server.port, host: "localhost", rejectUnauthorized: false })
      yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
      const before: unknown = (socket as unknown as Parts)["secureConnecting"]
      yield* Effect.async<void>((resume) => {
        socket.once("secureConnect", () => resume(Effect.void))
      })
      assert.deepStrictEqual([before, (socket as unknown as Parts)["secureConnecting"]], [true, false])
    }))

  it.scopedLive("socket._handle, socket._parent: a socket can have another's handle (else CONNECT fails, C9)", () =>
    Effect.gen(function*() {
      const server = yield* listening
      const socket = yield* connected(portOf(server))
      const { _handle } = socket as unknown as Parts
      assert.isFunction(_handle!["writeUtf8String"])
      const standIn = new Net.Socket()
      Object.defineProperty(standIn, "_handle", { get: () => _handle, set: () => {} })
      Object.assign(standIn, { _parent: socket, connecting: false })
      assert.isFalse(standIn.pending)
      assert.strictEqual(standIn.remotePort, portOf(server))
    }))

  it.scopedLive("SSL_SESSION: has version, times and certificate at their places (else nothing is resumed, C2)", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const session = yield* Effect.async<Buffer>((resume) => {
        const socket = Tls.connect({ port: server.port, host: "localhost", rejectUnauthorized: false })
        socket.once("session", (session) => {
          socket.destroy()
          resume(Effect.succeed(session))
        })
      })
      const read = readTlsSession(session)
      assert.strictEqual(read?.version, 0x0304)
      assert.isAbove(read!.lifetimeHint!, 0)
      assert.isAbove(read!.certificate!.length, 100)
      assert.approximately(read!.issuedAt, Date.now() / 1_000, 600)
    }))

  it("timer._idleTimeout, timer._destroyed: show whether a timer is set (else cleared ones count as escaped)", () => {
    const [timer] = resourcesOf(() => clearTimeout(setTimeout(() => undefined, 10)))
    assert.deepStrictEqual(
      [timer?.type, timer?.object["_idleTimeout"], timer?.object["_destroyed"]],
      ["Timeout", -1, true]
    )
    const [interval] = resourcesOf(() => setInterval(() => undefined, 2 ** 31 - 1).unref())
    assert.strictEqual(interval?.object["_idleTimeout"], 2 ** 31 - 1)
    clearInterval(interval?.object as unknown as NodeJS.Timeout)
  })

  it("async_hooks: have these names for started work (else an escape is missed, or wrongly reported)", async () => {
    const typesOf = (work: () => void) => resourcesOf(work).map(({ type }) => type)
    assert.include(typesOf(() => process.nextTick(() => undefined)), "TickObject")
    assert.include(typesOf(() => queueMicrotask(() => undefined)), "Microtask")
    assert.include(typesOf(() => void Promise.resolve()), "PROMISE")
    let job: Parts | undefined
    await new Promise((resolve) => {
      job = resourcesOf(() => readFile(import.meta.filename, resolve))
        .find(({ type }) => type.endsWith("REQUEST") || type === "FSREQCALLBACK")?.object
    })
    assert.isDefined(job)
  })

  it("console: writes from a frame that says so (else a log is reported as escaped)", () => {
    let stack: string | undefined
    const write = vi.spyOn(process.stdout, "write").mockImplementation(() => {
      stack = new Error("where").stack
      return true
    })
    // Vitest's console is its own.
    const { Console } = globalThis.console as unknown as { Console: new(stream: NodeJS.WriteStream) => Console }
    new Console(process.stdout).log("a line")
    write.mockRestore()
    assert.match(stack ?? "", /node:internal\/console|\bconsole\.\w+ /i)
  })
})

// -----------------------------------------------------------------------------
// undici, ws, and false timers
// -----------------------------------------------------------------------------

describe("undici", () => {
  it.scopedLive("pool.destroyed: says that a pool has ended (else NodeHttpSession keeps every pool)", () =>
    Effect.gen(function*() {
      const pool = new Undici.Pool("http://127.0.0.1:1")
      const before: unknown = (pool as unknown as Parts)["destroyed"]
      yield* Effect.promise(() => pool.destroy())
      assert.deepStrictEqual([before, (pool as unknown as Parts)["destroyed"]], [false, true])
    }))
})

describe("ws", () => {
  it.scopedLive("webSocket.close: answers a close frame by its own close (else the code waits for TCP's end, W4)", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* halfOpen
      const calls: Array<ReadonlyArray<unknown>> = []
      class Watched extends WebSocket {
        override close(...answer: [code?: number, reason?: string | Buffer]): void {
          calls.push(answer.map(String))
          super.close(...answer)
        }
      }
      for (const frame of [closeFrame(4401, "why"), closeFrame(), [0xc1, 0x01, 0x61]]) {
        const socket = new Watched(url)
        socket.on("error", () => {})
        yield* Effect.addFinalizer(() => Effect.sync(() => socket.terminate()))
        const peer = yield* accept
        peer.write(Uint8Array.from(frame))
        const before = calls.length
        yield* eventually(Effect.sync(() => calls.length > before))
      }
      // The last of the peers has broken the protocol, which an `error` reports.
      assert.deepStrictEqual(calls, [["4401", "why"], [], ["1002"]])
    }))
})

describe("false timers", () => {
  it("process.uptime, MessageChannel: stay real (else a budget never ends under false timers, I4)", () => {
    const real = [process.uptime, globalThis.MessageChannel]
    vi.useFakeTimers()
    const under = [process.uptime, globalThis.MessageChannel]
    vi.useRealTimers()
    assert.deepStrictEqual(under, real)
  })
})
