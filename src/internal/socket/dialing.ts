/**
 * Dials one connection: evaluates the user's `dial`, attaches the session's value to the request, and connects.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { Generation } from "../../Session.js"
import { type Connection, type ConnectionFailure, DialError, type DialRequest } from "../../WebSocketDialer.js"
import { count, validated } from "../check.js"
import { within } from "../first.js"
import { shown } from "./dialers.js"
import type { Line } from "./lines.js"
import * as Policy from "./policy.js"
import { mebi } from "./settings.js"
import type { Wiring } from "./wiring.js"

export class Dialing<R> {
  private readonly wiring: Wiring<any, any, R>
  /** The session's generation that the server has refused: the next dial asks for its successor. */
  private refused: Generation<any> | undefined
  /** Whether a refusal has led to a fresh value, and no connection has been stable since. */
  private hasRefreshed = false

  constructor(wiring: Wiring<any, any, R>) {
    this.wiring = wiring
  }

  dial(line: Line<any>): Effect.Effect<Connection, DialError, R> {
    const { dialer, orders, settings, telemetry, userEffects } = this.wiring
    const { maxPayload } = settings
    let url = ""
    // When this is interrupted, it does not wait for the end of the user's `dial`. It does wait for the end of the dial
    // below, so that there are never two dials.
    return userEffects.run(Scope.extend(this.requested(line), line.userScope)).pipe(
      Effect.flatMap((request) => {
        if (orders.isClosing) return Effect.interrupt
        url = shown(request.url)
        telemetry.dialing(request.url)
        const limited = Effect.mapBoth(
          validated(() => count("maxPayload", maxPayload ?? request.maxPayload ?? dialer.maxPayload ?? 16 * mebi, 1)),
          {
            onFailure: (cause) => new DialError({ reason: "InvalidRequest", url, cause }),
            onSuccess: (limit) => {
              line.maxPayload = limit
            }
          }
        )
        return limited.pipe(
          Effect.zipRight(Effect.annotateCurrentSpan("socket", telemetry.socket)),
          Effect.zipRight(
            Scope.extend(dialer.dial(maxPayload === undefined ? request : { ...request, maxPayload }), line.scope)
          )
        )
      }),
      Effect.sandbox,
      Effect.mapError((cause) => {
        // A span wraps each error that is raised in it in a proxy. So both the cause here and the failure below are
        // unwrapped.
        const failure = Cause.originalError(Cause.squash(cause))
        return failure instanceof DialError ? failure : new DialError({ reason: "Transport", url, cause: failure })
      }),
      (dialing) => within(dialing, settings.openTimeout, () => new DialError({ reason: "Timeout", url })),
      Effect.onExit((exit) => Effect.sync(() => telemetry.dialed(exit))),
      Effect.withSpan("ReconnectingSocket.dial", {
        kind: "client",
        captureStackTrace: false,
        attributes: { socket: telemetry.socket, attempt: line.context.attempt }
      }),
      Effect.mapError(Cause.originalError)
    ) as Effect.Effect<Connection, DialError, R>
  }

  private requested(line: Line<any>): Effect.Effect<DialRequest, unknown, any> {
    const { dial, session } = this.wiring.options
    // A `Context.Tag` is both an effect and a function; here it is used as an effect.
    const request = Effect.isEffect(dial)
      ? dial
      : typeof dial === "function"
      ? Effect.suspend(() => dial(line.context))
      : Effect.succeed(dial)
    if (session === undefined) return request
    return Effect.flatMap(request, (request) =>
      Effect.map(
        this.refused === undefined ? session.session.current : session.session.refresh(this.refused),
        (generation) => {
          this.refused = undefined
          line.generation = generation
          return session.attach(request, generation.value)
        }
      ))
  }

  /** Whether the failure means that the server refused the session's value. Then the next dial asks for a fresh one. */
  noteRejection(failure: ConnectionFailure, { generation }: Line<any>): boolean {
    const { events, options: { session } } = this.wiring
    if (session === undefined || generation === undefined) return false
    const byDefault = Policy.isRejected(failure)
    const isRejected = events.decided("rejected", () => (session.rejected ?? Policy.isRejected)(failure), byDefault)
    if (isRejected) this.refused = generation
    return isRejected
  }

  /** Whether the failure is to be answered by a fresh value of the session, immediately. */
  isToRefresh(failure: ConnectionFailure, line: Line<any>): boolean {
    if (!this.noteRejection(failure, line)) return false
    const isFirst = !this.hasRefreshed
    this.hasRefreshed = true
    return isFirst
  }

  /** Called when a connection was stable: the next refusal is again answered immediately. */
  reset(): void {
    this.hasRefreshed = false
  }
}
