/**
 * The writer of one connection. It sends everything on the connection, one write at a time: the heartbeat's protocol
 * ping, the connection's direct messages (login, subscriptions, the user's pings), and batches of the outbox, if that
 * drains to this connection.
 *
 * `current`, the write that is going on, is the permit to write, like that of a `Semaphore(1)`: while it is set,
 * messages wait, and are then written together. `wake` is called by whatever adds something to send. If there is no
 * current write, `wake` hands the transport a write in the same step. So a message for an idle connection leaves in its
 * sender's own step, and neither an idle connection nor, if the dialer has a `WriteNow`, a write needs a fiber.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { ConnectionLost } from "../../WebSocketDialer.js"
import { monotonic } from "../monotonic.js"
import type { DirectMessage, LiveConnection } from "./connection.js"
import type { QueuedMessage } from "./outbox.js"
import { lossOf } from "./policy.js"
import type { Wiring } from "./wiring.js"
import { type WriteNow, writeNowOf } from "./writeNow.js"

interface Write {
  readonly isPing: boolean
  readonly direct: ReadonlyArray<DirectMessage>
  readonly messages: ReadonlyArray<QueuedMessage<any>>
  /** `Lost` means that the connection has ended meanwhile, so that it is unknown what has arrived. */
  state: "Going" | "Written" | "Lost"
}

export class Writer {
  private readonly live: LiveConnection<any>
  private readonly wiring: Wiring<any, any, any>
  /** The connection's scope. */
  private readonly scope: Scope.Scope
  private readonly writeNow: WriteNow | undefined
  private current: Write | undefined
  /** The fiber of the last write that needed one. */
  private fiber: Fiber.RuntimeFiber<void> | undefined
  /** Whether `wake` runs: what is added meanwhile is written by its loop. */
  private isAwake = false
  private isStopped = false
  /** Whether a fiber watches how long writes take. */
  private isWatched = false

  constructor(live: LiveConnection<any>, wiring: Wiring<any, any, any>, scope: Scope.Scope) {
    this.live = live
    this.wiring = wiring
    this.scope = scope
    this.writeNow = writeNowOf(live.connection)
  }

  /** From now on the connection is written to, until it or its scope ends. A write that fails ends the connection. */
  get start(): Effect.Effect<void> {
    return Effect.zipRight(
      Scope.addFinalizer(this.scope, this.stop),
      Effect.sync(() => {
        this.live.onceLost(() => this.lose())
        this.live.writer = this
        this.wake()
      })
    )
  }

  private get stop(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.isStopped = true
      this.lose()
      return this.fiber === undefined ? Effect.void : Fiber.interrupt(this.fiber)
    })
  }

  /** Begins to write, if there is something to write and no current write. */
  wake(): void {
    if (this.isAwake) return
    this.isAwake = true
    try {
      while (this.advance());
    } finally {
      this.isAwake = false
    }
  }

  /** Ends the current write, or begins the next one. Gives false if there is nothing to do for now. */
  private advance(): boolean {
    const { current } = this
    if (current === undefined) {
      if (!this.hasWork) return false
      try {
        this.begin()
      } catch (cause) {
        this.live.fail(lossOf(cause))
      }
      return true
    }
    if (current.state === "Going") return false
    this.current = undefined
    this.settle(current)
    return true
  }

  private lose(): void {
    if (this.current?.state === "Going") this.current.state = "Lost"
    this.wake()
  }

  // ---------------------------------------------------------------------------
  // one write
  // ---------------------------------------------------------------------------

  private get hasWork(): boolean {
    const { live } = this
    if (this.isStopped || live.failure !== undefined) return false
    return live.isPinging || live.unsent > 0 || this.hasMessages
  }

  private get hasMessages(): boolean {
    const { outbox } = this.wiring
    return outbox.isDrainingTo(this.live) && outbox.hasWork
  }

  private begin(): void {
    const { live, wiring: { clock, outbox, settings } } = this
    const now = clock.unsafeCurrentTimeMillis()
    if (settings.timeToLive !== Infinity) outbox.expire(monotonic(clock))
    const isPing = live.isPinging
    const write: Write = {
      isPing,
      direct: isPing ? [] : live.takeDirect(),
      messages: !isPing && this.hasMessages ? outbox.take(settings.window) : [],
      state: "Going"
    }
    if (!isPing && write.direct.length === 0 && write.messages.length === 0) return
    this.current = write
    live.writingSince = now
    for (const message of write.messages) message.onHanded?.(live)
    // Reading must go on, so that acknowledgements and replies to these messages can arrive.
    if ((outbox.isAwaiting || !live.awaiting.isEmpty) && !live.inbox.isFullOfBytes) live.resume(now)
    this.hand(write)
    if (write.state === "Going") this.watchWrites()
  }

  private hand(write: Write): void {
    const { live: { connection, run }, writeNow } = this
    const onWritten = () => {
      if (write.state === "Going") write.state = "Written"
      this.wake()
    }
    const data = [...write.direct.map(({ data }) => data), ...write.messages.map(({ outgoing }) => outgoing)]
    if (writeNow !== undefined && !write.isPing) return writeNow(data, onWritten)
    const ping = Option.getOrElse(connection.ping, () => Effect.void)
    this.fiber = run(
      Effect.matchCause(write.isPing ? ping : Effect.suspend(() => connection.write(data)), {
        onFailure: (cause) => this.live.fail(lossOf(Cause.squash(cause))),
        onSuccess: onWritten
      })
    )
  }

  private settle({ direct, isPing, messages, state }: Write): void {
    const { live, wiring: { outbox } } = this
    const isWritten = state === "Written"
    if (isPing) live.isPinging = false
    live.wrote()
    outbox.settle(messages, isWritten)
    if (isWritten) { for (const { onWritten } of direct) onWritten?.() }
  }

  // ---------------------------------------------------------------------------
  // its time limit
  // ---------------------------------------------------------------------------

  private watchWrites(): void {
    if (this.isWatched) return
    this.isWatched = true
    this.live.run(Effect.asVoid(Effect.forkIn(this.watching, this.scope)))
  }

  /**
   * Ends a connection whose write takes too long. One fiber watches many writes, and ends when there is no current
   * write.
   */
  private get watching(): Effect.Effect<void> {
    const { live, wiring: { clock, settings: { writeTimeout } } } = this
    return Effect.gen(this, function*() {
      let { current } = this
      while (current !== undefined) {
        const left = live.writingSince! + writeTimeout - clock.unsafeCurrentTimeMillis()
        yield* Effect.sleep(Math.min(left, writeTimeout))
        if (this.current === current) return live.fail(new ConnectionLost({ reason: "WriteTimeout" }))
        current = this.current
      }
      this.isWatched = false
    })
  }
}
