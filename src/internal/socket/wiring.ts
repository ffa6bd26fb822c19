/**
 * The parts that the files of one socket share.
 */
import type * as Clock from "effect/Clock"
import type * as Either from "effect/Either"
import type * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import type { Message, WebSocketDialer } from "../../WebSocketDialer.js"
import type { UserEffects } from "../userEffects.js"
import type { Events } from "./events.js"
import type { Orders } from "./orders.js"
import type { Outbox } from "./outbox.js"
import type { AnyOptions, Settings } from "./settings.js"
import type { Telemetry } from "./telemetry.js"

/** The parts that the public module makes. */
export interface Given<Out, In, R> {
  readonly options: AnyOptions<Out, In>
  readonly settings: Settings<Out, In>
  /** Left: why the message cannot be encoded. */
  readonly encode: (message: Out) => Either.Either<Message, unknown>
  readonly dialer: WebSocketDialer["Type"]
  /** The socket's scope: all its fibers and connections end with it. */
  readonly scope: Scope.Scope
  readonly runtime: Runtime.Runtime<R>
  readonly clock: Clock.Clock
}

export interface Wiring<Out, In, R> extends Given<Out, In, R> {
  readonly orders: Orders
  readonly events: Events
  readonly telemetry: Telemetry
  readonly outbox: Outbox<Out>
  readonly userEffects: UserEffects
}
