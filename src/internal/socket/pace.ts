/**
 * How fast subscriptions are sent: no more than `limit` messages in any `interval`, over all connections of a socket,
 * since servers that count messages count them for an address or an account as well.
 *
 * Each message takes a turn, in the order of asking. A turn counts from when it is granted until `interval` after its
 * message was written: a transport that is stuck must not let out at last what was paced before.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Waiters } from "../waiters.js"

export interface Rate {
  /** Messages. */
  readonly limit: number
  /** Milliseconds. */
  readonly interval: number
}

export interface Turn {
  state: "Waiting" | "Granted" | "Over"
}

export class Pace {
  private readonly rate: Rate
  private readonly now: () => number
  private readonly fork: (effect: Effect.Effect<void>) => void
  /** In the order in which they are granted. */
  private readonly waiting = new Set<Turn>()
  private granted = 0
  /** When the last messages were written, of the last `interval` only: the oldest first. */
  private written: Array<number> = []
  private readonly whenGranted = new Waiters()
  private isTiming = false

  /** `fork` runs a fiber of the socket's scope. */
  constructor(rate: Rate, now: () => number, fork: (effect: Effect.Effect<void>) => void) {
    this.rate = rate
    this.now = now
    this.fork = fork
  }

  /** A turn that is granted immediately, if there is one. */
  tryTake(): Turn | undefined {
    if (this.waiting.size > 0 || this.room <= 0) return undefined
    this.granted++
    return { state: "Granted" }
  }

  /** Asks for a turn, which is given up or used by `end`. */
  ask(): Turn {
    const turn = this.tryTake() ?? { state: "Waiting" }
    if (turn.state === "Waiting") this.waiting.add(turn)
    this.advance()
    return turn
  }

  until(turn: Turn): Effect.Effect<void> {
    return Waiters.until(() => turn.state === "Waiting" ? undefined : Exit.void, this.whenGranted)
  }

  /** The turn's message has been written, or its connection is lost; or, if not `isUsed`, nothing was sent. */
  end(turn: Turn, isUsed: boolean): void {
    if (turn.state === "Granted") {
      this.granted--
      if (isUsed) this.written.push(this.now())
    }
    turn.state = "Over"
    this.waiting.delete(turn)
    this.advance()
  }

  private get room(): number {
    const now = this.now()
    const since = now - this.rate.interval
    // A clock that is set back makes nobody wait for longer than an interval.
    this.written = this.written.filter((at) => at > since).map((at) => Math.min(at, now))
    return this.rate.limit - this.granted - this.written.length
  }

  private advance(): void {
    let { room } = this
    let isNews = false
    for (const turn of this.waiting) {
      if (room <= 0) break
      room--
      isNews = true
      this.waiting.delete(turn)
      this.granted++
      turn.state = "Granted"
    }
    if (isNews) this.whenGranted.notify()
    this.startTimer()
  }

  /** Advances when the oldest message no longer counts. The timer ends when nothing waits for time alone. */
  private startTimer(): void {
    const [oldest] = this.written
    if (this.isTiming || this.waiting.size === 0 || oldest === undefined) return
    this.isTiming = true
    const left = oldest + this.rate.interval - this.now()
    this.fork(Effect.zipRight(
      Effect.sleep(Math.max(1, left)),
      Effect.sync(() => {
        this.isTiming = false
        this.advance()
      })
    ))
  }
}
