/** Finds a handler's WebSockets, and tells their clients that the server goes away. */
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as Socket from "@effect/platform/Socket"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"

/**
 * A request that calls `onUpgrade` for each upgrade. If `onUpgrade` returns false, the handler is interrupted instead.
 */
export const reportingUpgrades = (
  request: HttpServerRequest.HttpServerRequest,
  onUpgrade: (webSocket: Socket.Socket) => boolean
): HttpServerRequest.HttpServerRequest => {
  const modify: HttpServerRequest.HttpServerRequest["modify"] = (options) =>
    reportingUpgrades(request.modify(options), onUpgrade)
  const upgrade = Effect.tap(request.upgrade, (webSocket) => onUpgrade(webSocket) ? Effect.void : Effect.interrupt)
  // The target of the proxy is another object, since a proxy could not change what a frozen request shows. The methods
  // run on the request itself, since a proxy has none of its private fields.
  return new Proxy(Object.create(Object.getPrototypeOf(request) as object) as HttpServerRequest.HttpServerRequest, {
    get: (_, key) => {
      if (key === "upgrade") return upgrade
      if (key === "modify") return modify
      const value: unknown = Reflect.get(request, key)
      return typeof value === "function" ? value.bind(request) as unknown : value
    },
    set: (_, key, value) => Reflect.set(request, key, value),
    has: (_, key) => Reflect.has(request, key)
  })
}

/**
 * Tells the clients of a handler's WebSockets that the server goes away, and then interrupts the handler. In this
 * order, since a handler that ends first closes the connection without a code.
 */
export const dismiss = (
  webSockets: ReadonlyArray<Socket.Socket>,
  handler: Fiber.RuntimeFiber<unknown, unknown>
): Effect.Effect<void> =>
  webSockets.length === 0
    ? Effect.void
    : Effect.forEach(webSockets, ({ writer }) => Effect.flatMap(writer, (write) => write(goingAway)), {
      concurrency: "unbounded",
      discard: true
    }).pipe(
      Effect.scoped,
      // Nothing can be written to a socket that no fiber runs (yet).
      Effect.timeoutOption(longestClose),
      Effect.ignore,
      Effect.zipRight(Fiber.interruptFork(handler))
    )

/** RFC 6455 section 7.4.1. */
const goingAway = new Socket.CloseEvent(1001, "the server is shutting down")

/** Handing over a close frame takes no time unless it fails. */
const longestClose = "100 millis"
