/**
 * The states of a socket, and the events that change them. Pure: `next` is the whole state machine, and `move` throws
 * for an event that `next` does not allow.
 *
 * ```text
 *              Dial            Dialed            Ready
 *   Waiting ─────────► Dialing ───────► Opening ───────► Open ─┐ Ready (a replacement)
 *      ▲                  │                │              │ ▲  │
 *      └──────────────────┴─────Wait───────┴──────────────┘ └──┘        Dial: from any; Close: from any to Closed
 * ```
 */
import * as Cause from "effect/Cause"
import type { CloseInfo, ConnectionState } from "../../ReconnectingSocket.js"
import type { ConnectionFailure } from "../../WebSocketDialer.js"

export type Phase<Live> =
  | {
    /** There is no connection: a dial has begun, or is about to begin. */
    readonly _tag: "Dialing"
    /** How many delays there have been since the backoff last started: 0 for the first dial. */
    readonly attempt: number
  }
  | {
    readonly _tag: "Opening"
    /**
     * The connection, which is dialed but not ready: only the login and the subscriptions are sent on it, not the
     * outbox.
     */
    readonly connection: Live
  }
  | {
    readonly _tag: "Open"
    /**
     * The connection, which is ready: the outbox drains only to this connection, unless it is stopped for a
     * replacement.
     */
    readonly connection: Live
    /** Epoch milliseconds: when this connection became ready, not the one that it may have replaced. */
    readonly since: number
  }
  | {
    /** There is no connection, and no dial begins before `until` unless an order comes. */
    readonly _tag: "Waiting"
    readonly until: number
    /** Why the last attempt ended. */
    readonly failure: ConnectionFailure
    /** The number of delays including this one: at least 1. */
    readonly attempt: number
  }
  | {
    /** The last state: no connection is left, nothing is accepted, and all streams end. */
    readonly _tag: "Closed"
    readonly info: CloseInfo
  }

export type PhaseEvent<Live> =
  /** The owner dials. */
  | { readonly _tag: "Dial"; readonly attempt: number }
  /** The dial gave a connection. */
  | { readonly _tag: "Dialed"; readonly connection: Live }
  /** The login and the subscriptions are done, on the connection that was opening or on its replacement. */
  | { readonly _tag: "Ready"; readonly connection: Live; readonly since: number }
  /** The attempt has ended, and the next one comes after the backoff's delay. */
  | {
    readonly _tag: "Wait"
    readonly until: number
    readonly failure: ConnectionFailure
    readonly attempt: number
  }
  /** The socket was closed, or has failed. */
  | { readonly _tag: "Close"; readonly info: CloseInfo }

/** The phase after the event; undefined if the event cannot happen in this phase. */
export const next = <Live>(phase: Phase<Live>, event: PhaseEvent<Live>): Phase<Live> | undefined => {
  if (phase._tag === "Closed") return undefined
  switch (event._tag) {
    case "Dial": {
      // A dial that follows another one without a delay does not change the state.
      const isSame = phase._tag === "Dialing" && phase.attempt === event.attempt
      return isSame ? phase : { _tag: "Dialing", attempt: event.attempt }
    }
    case "Dialed":
      return phase._tag === "Dialing" ? { _tag: "Opening", connection: event.connection } : undefined
    case "Ready": {
      const { connection, since } = event
      const isReady = phase._tag === "Opening" && phase.connection === connection
      const isReplaced = phase._tag === "Open" && phase.connection !== connection
      return isReady || isReplaced ? { _tag: "Open", connection, since } : undefined
    }
    case "Wait": {
      const { attempt, failure, until } = event
      return phase._tag === "Waiting" ? undefined : { _tag: "Waiting", until, failure, attempt }
    }
    case "Close":
      return { _tag: "Closed", info: event.info }
  }
}

/**
 * The phase after the event. Throws if the event cannot happen in this phase, which would be a fault of this library.
 */
export const move = <Live>(phase: Phase<Live>, event: PhaseEvent<Live>): Phase<Live> => {
  const moved = next(phase, event)
  if (moved !== undefined) return moved
  throw new Cause.RuntimeException(`a socket that is ${phase._tag} cannot take the event ${event._tag}`)
}

/** The phase as users see it: without the connection. */
export const stateOf = (phase: Phase<unknown>): ConnectionState => {
  switch (phase._tag) {
    case "Opening":
      return { _tag: "Opening" }
    case "Open":
      return { _tag: "Open", since: phase.since }
    default:
      return phase
  }
}
