/**
 * How fast subscriptions are sent: no more than `limit` messages in any `interval`, over all connections of a socket,
 * since servers may count messages for an address or an account.
 *
 * Each message takes a turn, in the order of the requests. A turn counts from when it is granted until `interval` after
 * its message was written, because a blocked transport could otherwise send many paced messages together in the end.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { LinkedSet } from "../linkedSet.js"
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
  /** The waiting turns, in the order in which they are granted. */
  private readonly waiting = new LinkedSet<Turn>()
  private granted = 0
  /** When the messages of the last `interval` were written, the oldest first. */
  private written: Array<number> = []
  private readonly whenGranted = new Waiters()
  private isTiming = false

  /** `fork` runs a fiber of the socket's scope. */
  constructor(rate: Rate, now: () => number, fork: (effect: Effect.Effect<void>) => void) {
    this.rate = rate
    this.now = now
    this.fork = fork
  }

  /** Gives a turn if one can be granted immediately. */
  tryTake(): Turn | undefined {
    if (this.waiting.size > 0 || this.room <= 0) return undefined
    this.granted++
    return { state: "Granted" }
  }

  /** Asks for a turn. `end` uses it or gives it up. */
  ask(): Turn {
    const turn = this.tryTake() ?? { state: "Waiting" }
    if (turn.state === "Waiting") this.waiting.add(turn)
    this.advance()
    return turn
  }

  until(turn: Turn): Effect.Effect<void> {
    return Waiters.until(() => turn.state === "Waiting" ? undefined : Exit.void, this.whenGranted)
  }

  /** Called when the turn's message has been written or its connection is lost (`isUsed`), or when nothing was sent. */
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
    // If the clock is set back, no message waits longer than one interval.
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

  /** Advances when the oldest message no longer counts. The timer ends when no turn waits only for time. */
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
