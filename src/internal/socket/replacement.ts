/**
 * Replaces an open connection before a server cuts it at a known age: a fiber makes the next connection ready while the
 * current one is in use, the owner switches to the new connection, and the replaced one is closed with a close frame.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import { type ConnectionFailure, ConnectionLost } from "../../WebSocketDialer.js"
import { first } from "../first.js"
import { Waiters } from "../waiters.js"
import type { Dialing } from "./dialing.js"
import type { Line, Lines } from "./lines.js"
import * as Policy from "./policy.js"
import type { Retries } from "./retries.js"
import type { Wiring } from "./wiring.js"

interface Parts<in out In, R> {
  readonly wiring: Wiring<any, In, R>
  readonly lines: Lines<In>
  readonly dialing: Dialing<R>
  readonly retries: Retries
  /** Dials, and makes the connection ready. */
  readonly open: (line: Line<In>) => Effect.Effect<void, ConnectionFailure | undefined, R>
  /** Drops a connection that was not used, and keeps the messages that have come on it. */
  readonly discard: (line: Line<In>) => Effect.Effect<void>
}

/** A line that has failed. */
export interface Failed<in out In> {
  readonly line: Line<In>
  readonly failure: ConnectionFailure
}

export class Replacements<in out In, R> {
  /** A replacement that is being made ready. */
  opening: Line<In> | undefined
  /** The connection that is ready to replace the open one (or the one that was open until just now). */
  ready: Line<In> | undefined
  /** Notified when `opening` or `ready` changes. */
  readonly whenChanged = new Waiters()
  /** The line whose failure is the owner's, because the connection that it was to replace is lost. */
  private awaited: Line<In> | undefined
  /** The awaited line, if it has failed. */
  private failed: Failed<In> | undefined
  /** The backoff of the replacements of the current connection. */
  private retries: Retries | undefined
  /** Connections that have been replaced and are still closing. */
  private readonly replaced = new Set<Line<In>>()
  private readonly parts: Parts<In, R>

  constructor(parts: Parts<In, R>) {
    this.parts = parts
  }

  /**
   * Makes a replacement ready after `renewAfter` milliseconds. Ends when it is ready, or when there will be none: then
   * the connection is used until the server cuts it. `isFirst` is false if an earlier replacement was ready, but ended
   * before the current connection was replaced.
   */
  make(renewAfter: number, isFirst: boolean): Effect.Effect<void, never, R> {
    return Effect.gen(this, function*() {
      // The replacement has a backoff of its own.
      if (isFirst) this.retries = undefined
      const retries = this.retries ??= this.parts.retries.fresh()
      if (isFirst) {
        const early = yield* Random.nextRange(0.9, 1)
        do yield* Effect.sleep(renewAfter * early)
        while (
          // At most one replaced connection waits until the consumer has taken its messages.
          this.replaced.size > 0
        )
      } else {
        const delay = yield* retries.delayAfter(new ConnectionLost({ reason: "Reset" }))
        yield* Effect.sleep(Option.getOrElse(delay, () => renewAfter))
      }
      for (;;) {
        const opened = yield* this.open
        if (Option.isNone(opened)) return
        const failure = opened.value
        const delay = retries.isRetryable(failure) ? yield* retries.delayAfter(failure) : Option.none()
        if (Option.isNone(delay)) return
        yield* Effect.sleep(delay.value)
      }
    })
  }

  /** Makes the next connection ready. Gives the failure if this fails. */
  private get open(): Effect.Effect<Option.Option<ConnectionFailure>, never, R> {
    const { dialing, discard, lines, open } = this.parts
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen(this, function*() {
        const line = this.opening = yield* lines.make({ attempt: 0, previous: Option.none() })
        const opened = yield* Effect.exit(restore(open(line)))
        // The owner has taken the line over.
        if (this.opening !== line) return Option.none()
        this.opening = undefined
        const failure = Exit.isSuccess(opened) ? undefined : Policy.lossOf(Cause.squash(opened.cause))
        const isAwaited = this.awaited === line
        if (failure === undefined) this.ready = line
        else if (isAwaited) this.failed = { line, failure }
        this.whenChanged.notify()
        if (failure === undefined || isAwaited) return Option.none()
        yield* discard(line)
        if (!Exit.isInterrupted(opened)) {
          // The message alone: a failure has the answer's headers and the messages that could not be decoded.
          yield* Effect.logWarning(`a socket could not replace its connection: ${failure.message}`)
        }
        dialing.noteRejection(failure, line)
        return Option.some(failure)
      })
    )
  }

  /** Gives the connection that is being made ready to the owner, who ends it. */
  takeOpening(): Line<In> | undefined {
    const { opening } = this
    this.opening = undefined
    return opening
  }

  /**
   * Waits until the replacement that is being made ready is ready or has failed, or an order has come. Its failure is
   * the owner's from this call on, not from when the effect runs: it may fail in between.
   */
  untilOpened(): Effect.Effect<void> {
    const { orders } = this.parts.wiring
    this.awaited = this.opening
    const isOver = () => this.opening === undefined || orders.isOrdered
    return Waiters.until(() => isOver() ? Exit.void : undefined, this.whenChanged, orders.whenOrdered)
  }

  /** The replacement that the owner has waited for, if it has failed: the owner ends it. */
  takeFailed(): Failed<In> | undefined {
    const { failed } = this
    this.failed = undefined
    return failed
  }

  /** Drops the ready replacement, if there is one. */
  get drop(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { ready } = this
      this.ready = undefined
      return ready === undefined ? Effect.void : this.parts.discard(ready)
    })
  }

  /** Closes the ready replacement, if there is one, with a close frame. */
  close(code: number, reason: string): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { ready } = this
      this.ready = undefined
      return ready === undefined ? Effect.void : this.parts.lines.close(ready, code, reason, Effect.void)
    })
  }

  /** Closes a connection that has been replaced, in the background: its awaited answers may still come. */
  retire(line: Line<In>): Effect.Effect<void> {
    const { lines, wiring } = this.parts
    return Effect.suspend(() => {
      this.replaced.add(line)
      return lines.close(line, 1000, "", line.live?.awaiting.answered ?? Effect.void).pipe(
        Effect.ensuring(Effect.sync(() => this.replaced.delete(line))),
        Effect.forkIn(wiring.scope),
        Effect.asVoid
      )
    })
  }

  /** Drops the connections that have been replaced and are still closing. A close frame gets one turn to be sent. */
  get dropReplaced(): Effect.Effect<void> {
    const { lines } = this.parts
    return Effect.suspend(() =>
      Effect.forEach(
        [...this.replaced],
        (line) => Effect.zipRight(first(lines.sendClose(line, 1000), Effect.yieldNow()), lines.drop(line)),
        { discard: true }
      )
    )
  }
}
