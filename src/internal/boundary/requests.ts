/** The requests in flight behind a boundary, and how a server drains them. */
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type * as Socket from "@effect/platform/Socket"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Scope from "effect/Scope"
import {
  type Connections,
  ended,
  type NodeServer,
  type NodeSocket,
  responseOf,
  serverOf,
  socketOf,
  stopAccepting
} from "./nodeServer.js"
import * as Policy from "./policy.js"
import { problem } from "./problem.js"
import { dismiss, reportingUpgrades } from "./webSockets.js"

/** A request whose response has not been sent yet, or whose connection has been upgraded and is still open. */
interface InFlight {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly handler: Fiber.RuntimeFiber<unknown, unknown>
  /** The sockets to which the handler has upgraded the connection. A handler may ask for an upgrade more than once. */
  readonly webSockets: Array<Socket.Socket>
  /** Whether the app has ended, with a response or without one. */
  hasEnded: boolean
  /** Called when the app has ended, and when the response has been sent. */
  onChange: () => void
}

export class Requests {
  private readonly limits: Policy.Limits
  private readonly connections: Connections | undefined
  private readonly onLimit: (incident: string) => void
  private state = Policy.serving
  private readonly inFlight = new Set<InFlight>()
  /**
   * Requests whose upgraded connection is open, even if the handler has ended and another fiber uses the connection.
   */
  private readonly upgraded = new Set<InFlight>()
  private readonly servers = new Set<NodeServer>()
  /** The open connections that have had a request. */
  private readonly sockets = new Set<NodeSocket>()
  /** The latest request of each connection: its response is the last one. */
  private readonly latest = new WeakMap<NodeSocket, HttpServerRequest.HttpServerRequest>()
  /** Completed when the server is draining and no request is in flight. */
  private readonly emptied = Deferred.unsafeMake<void>(FiberId.none)

  /** `onLimit` is called once, when there have been as many defects as the policy allows. */
  constructor(limits: Policy.Limits, connections: Connections | undefined, onLimit: (incident: string) => void) {
    this.limits = limits
    this.connections = connections
    this.onLimit = onLimit
  }

  onDefect(incident: string, now: number): void {
    if (this.state._tag === "Draining") return
    const next = Policy.afterDefect(this.state, now, this.limits)
    this.state = next
    if (next._tag === "Serving") return
    this.noteEmpty()
    this.onLimit(incident)
  }

  /** A request is in flight until its response has been sent: its scope closes only then. */
  tracked<E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<E, R> {
    return Effect.withFiberRuntime((handler) => {
      const request = Context.unsafeGet(handler.currentContext, HttpServerRequest.HttpServerRequest)
      this.noteConnection(request)
      if (this.state._tag === "Draining") return Effect.succeed(refusal)
      const scope = Context.unsafeGet(handler.currentContext as Context.Context<Scope.Scope>, Scope.Scope)
      const entry: InFlight = { request, handler, webSockets: [], hasEnded: false, onChange: () => {} }
      this.inFlight.add(entry)
      const tracked = request.headers["upgrade"] === undefined ? app : Effect.provideService(
        app,
        HttpServerRequest.HttpServerRequest,
        reportingUpgrades(request, (webSocket) => this.onUpgrade(entry, webSocket))
      )
      return Effect.zipRight(
        Scope.addFinalizer(scope, Effect.sync(() => this.forget(entry))),
        Effect.ensuring(tracked, Effect.sync(() => this.noteEnd(entry)))
      )
    })
  }

  private noteConnection(request: HttpServerRequest.HttpServerRequest): void {
    const socket = socketOf(request)
    if (socket === undefined) return
    const server = serverOf(socket)
    if (server !== undefined) this.servers.add(server)
    if (request.headers["upgrade"] === undefined) this.latest.set(socket, request)
    else this.latest.delete(socket)
    if (this.sockets.has(socket) || socket.closed) return
    this.sockets.add(socket)
    // Node removes its own listener when a client asks for an upgrade. Without one, a reset would end the process.
    socket.on("error", () => {})
    socket.once("close", () => this.sockets.delete(socket))
  }

  /**
   * A handler for all responses, because the platform answers typed failures outside the app. Only the last response of
   * a connection says that the connection closes: Node would not send those that come after it.
   */
  readonly closing: HttpApp.PreResponseHandler = (request, response) => {
    const socket = socketOf(request)
    const latest = socket && this.latest.get(socket)
    const isLast = latest === undefined || latest.source === request.source
    return Effect.succeed(
      this.state._tag === "Draining" && isLast
        ? HttpServerResponse.setHeader(response, "connection", "close")
        : response
    )
  }

  private onUpgrade(entry: InFlight, webSocket: Socket.Socket): boolean {
    const socket = socketOf(entry.request)
    if (entry.webSockets.push(webSocket) === 1 && socket !== undefined && !socket.closed) {
      this.upgraded.add(entry)
      socket.once("close", () => this.upgraded.delete(entry))
    }
    return this.state._tag === "Serving"
  }

  private noteEnd(entry: InFlight): void {
    entry.hasEnded = true
    entry.onChange()
  }

  private forget(entry: InFlight): void {
    this.inFlight.delete(entry)
    entry.onChange()
    this.noteEmpty()
  }

  private noteEmpty(): void {
    if (this.state._tag === "Draining" && this.inFlight.size === 0) Deferred.unsafeDone(this.emptied, Exit.void)
  }

  // ---------------------------------------------------------------------------
  // draining
  // ---------------------------------------------------------------------------

  readonly drained: Effect.Effect<void> = inFiberOfItsOwn(Effect.suspend(() => this.drain()))

  private drain(): Effect.Effect<void> {
    return Effect.gen(this, function*() {
      const now = yield* Policy.monotonicMillis
      const { until } = Policy.draining(this.state, now, this.limits)
      this.state = { _tag: "Draining", until }
      this.noteEmpty()
      yield* this.stopServers()
      const entries = new Set([...this.inFlight, ...this.upgraded])
      const sockets = new Set(Array.from(entries, ({ request }) => socketOf(request)).filter(isPresent))
      // The platform is done with a response before the last of its bytes have been sent.
      for (const socket of this.sockets) if (socket.writableLength > 0) sockets.add(socket)
      yield* Effect.timeoutOption(this.finished(entries, sockets), Math.max(0, until - now))
      for (const socket of [...sockets, ...this.connections?.open ?? []]) socket.destroy()
      for (const server of this.servers) server.closeAllConnections()
      // Handlers that can be interrupted are interrupted now, and this waits for their finalizers.
      yield* Effect.timeoutOption(Deferred.await(this.emptied), afterGrace)
    })
  }

  private stopServers(): Effect.Effect<void> {
    const { connections, servers } = this
    const known = connections === undefined ? Effect.void : Effect.map(
      Effect.timeoutOption(connections.discover, discovery),
      () => {
        const server = connections.server()
        if (server !== undefined) servers.add(server)
      }
    )
    return Effect.map(known, () => {
      for (const server of servers) stopAccepting(server)
    })
  }

  /** Waits until all responses have reached their clients and all WebSockets are closed. */
  private finished(entries: ReadonlySet<InFlight>, sockets: ReadonlySet<NodeSocket>): Effect.Effect<void> {
    const upgraded = new Set(Array.from(this.upgraded, ({ request }) => socketOf(request)))
    return Effect.zipRight(
      Effect.forEach(
        entries,
        (entry) => Effect.zipRight(dismiss(entry.webSockets, entry.handler), this.over(entry)),
        inParallel
      ),
      // A response may reach the client later than it was handed to Node. The answer to a close frame takes a round
      // trip.
      Effect.forEach(
        sockets,
        (socket) =>
          upgraded.has(socket)
            ? Effect.timeoutOption(ended(socket), closeAnswer)
            : Effect.zipRight(this.lastSent(socket), ended(socket)),
        inParallel
      )
    )
  }

  /** Waits until Node has sent the last response, which may wait for those of earlier requests. */
  private lastSent(socket: NodeSocket): Effect.Effect<void> {
    return Effect.async((resume) => {
      const request = this.latest.get(socket)
      const response = request && responseOf(request)
      if (response === undefined || response.writableFinished || response.destroyed || socket.closed) {
        return resume(Effect.void)
      }
      const onOver = (): void => resume(Effect.void)
      response.once("finish", onOver)
      response.once("close", onOver)
      socket.once("close", onOver)
    })
  }

  /**
   * Waits until the response has been sent, or the app has ended and the client has gone. Without its client, an app
   * that cannot be interrupted goes on.
   */
  private over(entry: InFlight): Effect.Effect<void> {
    return Effect.async((resume) => {
      const socket = socketOf(entry.request)
      const look = (): void => {
        if (!this.inFlight.has(entry) || (entry.hasEnded && socket?.closed)) resume(Effect.void)
      }
      entry.onChange = look
      socket?.once("close", look)
      look()
    })
  }
}

/** Runs the effect in a new fiber, since a timeout does not work in a fiber that has been interrupted. */
export const inFiberOfItsOwn = <A>(effect: Effect.Effect<A>): Effect.Effect<A> =>
  Effect.flatMap(Effect.forkDaemon(Effect.interruptible(effect)), Fiber.join)

const isPresent = <A>(a: A | undefined): a is A => a !== undefined

const inParallel = { concurrency: "unbounded", discard: true } as const

const refusal = problem(503, "Service Unavailable")

/** How long to wait for a server that is not known to have accepted any connection. */
const discovery = "1 second"

/** How long a WebSocket client has to answer the close frame. */
const closeAnswer = "1 second"

/** A fourth of the second that a termination may take beyond the grace. The application's finalizers have the rest. */
export const afterGrace = "250 millis"
