/**
 * Shows everything that this library keeps alive in a process on one live page: sessions, sockets, shared state and
 * caches of TLS tickets, with their latest events.
 *
 * **The idea.** `Inspector.layer` holds a registry. Each module looks for the registry once, in its `make`, and
 * registers what it makes. Reading the data (`snapshot`, or the page that `router` serves) asks every registered thing
 * for its state at that moment. `NodeInspector.layer` of `effect-holdfast/node` serves the page on the loopback.
 *
 * **What it guarantees.** Without `Inspector.layer` nothing is collected. With it, each thing costs one registration,
 * and the last 256 events are kept; while the data is not read, no fiber and no timer runs. A thing with a scope leaves
 * the Inspector when its scope closes; a `TransactionalRef` is held weakly, and is listed only if it has a name. For
 * each name, the numbers of the rows and of `gone` add up to the metric with that name as its label, if everything with
 * that name was made with this Inspector provided. Values of sessions, messages of sockets, contents of refs and
 * tickets, and messages of errors are never shown. The page is one document without external resources and without
 * data. It inserts fetched data as text, so that a name cannot contain markup. A request for data needs an allowed
 * `Host` (and `Origin`, if it has one), and the token.
 *
 * **What it does not.** The Inspector keeps no history: events before the last 256 are only in the counters. Each
 * process has its own Inspector. Names are shown unchanged, so do not put a secret into a name.
 *
 * @since 0.1.0
 */

import type * as HttpRouter from "@effect/platform/HttpRouter"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import { Collector } from "./internal/inspector/collector.js"
import * as Routes from "./internal/inspector/routes.js"
import { CurrentRegistry } from "./internal/registry.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * Counts of refreshes by how they ended, with the same names as the label `outcome` of
 * `holdfast_session_refreshes_total`.
 *
 * @since 0.1.0
 * @category models
 */
export interface SessionCounts {
  readonly refreshes: { readonly [outcome: string]: number }
}

/**
 * One refresh that has ended: when (epoch milliseconds), how, how long it took, how many callers waited for it, and the
 * tag of its error.
 *
 * @since 0.1.0
 * @category models
 */
export interface Refresh {
  readonly at: number
  readonly outcome: string
  readonly millis: number
  readonly waiters: number
  readonly reason?: string | undefined
}

/**
 * A session. Times are epoch milliseconds; `null` means that there is no such time: there is no generation, or it never
 * expires. `state` is the tag of its status; `waiters` is how many callers wait now; `since` is when a refresh began or
 * failed; `last` has the last refreshes, the latest first.
 *
 * @since 0.1.0
 * @category models
 */
export interface SessionRow extends SessionCounts {
  readonly id: number
  readonly name: string
  readonly state: "Idle" | "Refreshing" | "Active" | "Failing" | "Closed"
  readonly generation: number | null
  readonly acquiredAt: number | null
  readonly expiresAt: number | null
  /** Whether callers are currently given the generation. */
  readonly serving: boolean
  readonly waiters: number
  readonly since: number | null
  readonly retryAt: number | null
  readonly last: ReadonlyArray<Refresh>
}

/**
 * Counts of dials by outcome, connections that became ready, losses by reason, callbacks that threw, dropped messages
 * by reason, and answers to pings: the same as the metrics of sockets with these names.
 *
 * @since 0.1.0
 * @category models
 */
export interface SocketCounts {
  readonly dials: { readonly [outcome: string]: number }
  readonly opened: number
  readonly lost: { readonly [reason: string]: number }
  readonly rejected: { readonly [callback: string]: number }
  readonly dropped: { readonly [reason: string]: number }
  readonly roundTrips: number
}

/**
 * A socket. `attempt` counts the delays since the backoff last started; `until` is when the next dial is due, `failure`
 * why the last connection was lost, as a label; `roundTrip` is how long the latest answer to a ping took, in
 * milliseconds; `oldest` is when the oldest message in the outbox was accepted.
 *
 * @since 0.1.0
 * @category models
 */
export interface SocketRow extends SocketCounts {
  readonly id: number
  readonly name: string
  readonly state: "Dialing" | "Opening" | "Open" | "Waiting" | "Closed"
  readonly since: number
  readonly attempt: number
  readonly delay: number | null
  readonly until: number | null
  readonly failure: string | null
  readonly outbox: number
  readonly unacknowledged: number
  readonly oldest: number | null
  readonly roundTrip: number | null
}

/**
 * Counts of the outermost transactions that held a ref, by how they ended.
 *
 * @since 0.1.0
 * @category models
 */
export interface RefCounts {
  readonly commits: number
  readonly rollbacks: number
}

/**
 * A `TransactionalRef` that was given a name: which fiber's transaction holds it, since when, and how many wait.
 *
 * @since 0.1.0
 * @category models
 */
export interface RefRow extends RefCounts {
  readonly id: number
  readonly name: string
  readonly holder: string | null
  readonly since: number | null
  readonly waiters: number
}

/**
 * Counts of tickets by outcome: the same as the metrics of ticket caches with these names.
 *
 * @since 0.1.0
 * @category models
 */
export interface TicketCounts {
  readonly offered: number
  readonly resumed: number
  readonly refused: number
  readonly expired: number
  readonly dropped: number
}

/**
 * A cache of TLS tickets, with the numbers of `TicketCache.stats`.
 *
 * @since 0.1.0
 * @category models
 */
export interface TicketRow extends TicketCounts {
  readonly id: number
  readonly name: string
  readonly servers: number
  readonly tickets: number
  readonly bytes: number
}

/**
 * The sums over the things of one name that have gone: `things` is how many there were.
 *
 * @since 0.1.0
 * @category models
 */
export type Gone<Counts> = Counts & { readonly name: string; readonly things: number }

/**
 * Something that has happened. `number` counts from 0; `at` is epoch milliseconds; `id` is that of the row; `millis` is
 * the duration, if the event has one.
 *
 * @since 0.1.0
 * @category models
 */
export interface InspectorEvent {
  readonly number: number
  readonly at: number
  readonly kind: "sessions" | "sockets" | "refs" | "tickets"
  readonly id: number
  readonly name: string
  readonly event: string
  readonly detail?: string | undefined
  readonly millis?: number | undefined
}

/**
 * Everything, as plain data that JSON can hold. `at` is epoch milliseconds. `gone` has the sums over the things that
 * have gone, for up to 1,000 names of each kind; all further names are summed up together.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  readonly at: number
  readonly sessions: ReadonlyArray<SessionRow>
  readonly sockets: ReadonlyArray<SocketRow>
  readonly refs: ReadonlyArray<RefRow>
  readonly tickets: ReadonlyArray<TicketRow>
  readonly gone: {
    readonly sessions: ReadonlyArray<Gone<SessionCounts>>
    readonly sockets: ReadonlyArray<Gone<SocketCounts>>
    readonly refs: ReadonlyArray<Gone<RefCounts>>
    readonly tickets: ReadonlyArray<Gone<TicketCounts>>
  }
  readonly events: ReadonlyArray<InspectorEvent>
}

/**
 * The Inspector. Each `layer` is a separate Inspector, unless it is shared by memoization.
 *
 * @since 0.1.0
 * @category models
 */
export class Inspector extends Context.Tag("effect-holdfast/Inspector")<Inspector, {
  /** The current data. `from` is the number of the first event to include. Default: 0, all events that are kept. */
  readonly snapshot: (from?: number) => Effect.Effect<Snapshot>
}>() {}

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * An Inspector of everything that is made with the layer provided, in layers and in effects.
 *
 * @example
 * ```ts
 * import * as Inspector from "effect-holdfast/Inspector"
 * import * as Effect from "effect/Effect"
 *
 * declare const service: Effect.Effect<void>
 *
 * const inspected = Effect.provide(service, Inspector.layer)
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Inspector> = Layer.effectContext(
  Effect.map(Effect.clock, (clock): Context.Context<Inspector> => {
    const collector = new Collector(clock)
    return Context.make(Inspector, { snapshot: (from) => Effect.sync(() => collector.snapshot(from)) }).pipe(
      Context.add(CurrentRegistry, collector)
    )
  })
)

// -----------------------------------------------------------------------------
// combinators
// -----------------------------------------------------------------------------

/**
 * The Inspector's current data: for a health route, or a test.
 *
 * @example
 * ```ts
 * import * as Inspector from "effect-holdfast/Inspector"
 * import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
 * import * as Effect from "effect/Effect"
 *
 * const health = Effect.flatMap(Inspector.snapshot, ({ sessions }) =>
 *   HttpServerResponse.json({ failing: sessions.filter(({ state }) => state === "Failing").map(({ name }) => name) }))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const snapshot: Effect.Effect<Snapshot, never, Inspector> = Effect.flatMap(
  Inspector,
  (inspector) => inspector.snapshot()
)

/**
 * The token and the hosts: they decide who may read the data.
 *
 * @since 0.1.0
 * @category models
 */
export interface RouterOptions {
  /**
   * Every request for data needs this token, as `authorization: Bearer <token>`: visible ASCII without spaces. The page
   * takes it from the URL's fragment (`#token=…`), which browsers never send. Default: no token is needed, which is
   * only allowed if all `hosts` are names of the loopback.
   */
  readonly token?: Redacted.Redacted<string> | undefined
  /**
   * The host names, without port, under which the page may be requested: the `Host` of each request, and its `Origin`
   * if it has one, must be among them. Otherwise a web page whose own host name resolves to the loopback could reach
   * the Inspector. Default: `localhost`, `127.0.0.1` and `[::1]`.
   */
  readonly hosts?: ReadonlyArray<string> | undefined
}

/**
 * The page, and its data: as JSON (`/snapshot`), and as an endless stream of server-sent events (`/events`). Mount it
 * in the application's router, or serve it alone. Throws `InvalidOptions` for a token that could not be sent, for empty
 * `hosts`, and for `hosts` beyond the loopback without a token.
 *
 * @example
 * ```ts
 * import * as Inspector from "effect-holdfast/Inspector"
 * import * as HttpRouter from "@effect/platform/HttpRouter"
 * import * as Redacted from "effect/Redacted"
 *
 * const token = Redacted.make("a long random text")
 *
 * const routes = HttpRouter.empty.pipe(
 *   HttpRouter.mount("/inspector", Inspector.router({ token, hosts: ["ops.example.com"] }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const router = (options: RouterOptions = {}): HttpRouter.HttpRouter<never, Inspector> =>
  Routes.make(options, (from) => Effect.flatMap(Inspector, (inspector) => inspector.snapshot(from)))
