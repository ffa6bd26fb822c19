/** Compares a socket's events with the promises. */
import type * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Duration from "effect/Duration"
import { timing } from "./client.js"

export interface Verdict {
  readonly opened: number
  readonly lost: number
  /** Opened connections that were not lost exactly once, and attempts that were lost twice. */
  readonly untold: number
  readonly waits: number
  /** In milliseconds: the most by which a wait was longer than its computed delay. */
  readonly late: number
  /** In milliseconds: the most by which a wait was shorter than its computed delay. */
  readonly early: number
  /** Delays that are longer than the schedule's for that attempt. */
  readonly beyondCap: number
  /** Attempts whose number is neither the next nor, after a stable connection, the first. */
  readonly miscounted: number
}

/** In milliseconds: an event is read a little later than it happens. */
const hearing = 100

export class Events {
  private opened = 0
  private lost = 0
  private untold = 0
  private waits = 0
  private late = 0
  private early = 0
  private beyondCap = 0
  private miscounted = 0

  private openedAt: number | undefined
  private losses = 0
  private attempt = 0
  private mayStartAnew = true
  private waiting: { readonly since: number; readonly delay: number } | undefined

  see(event: ReconnectingSocket.SocketEvent, now: number): void {
    switch (event._tag) {
      case "Opened":
        this.opened++
        this.openedAt = now
        break
      case "Lost":
        this.lost++
        this.losses++
        if (this.openedAt !== undefined && now - this.openedAt >= timing.stableAfter - hearing) this.mayStartAnew = true
        break
      case "Waiting": {
        const delay = Duration.toMillis(event.delay)
        this.waits++
        if (event.attempt !== this.attempt + 1 && !(event.attempt === 1 && this.mayStartAnew)) this.miscounted++
        this.attempt = event.attempt
        this.mayStartAnew = false
        if (delay > capOf(event.attempt)) this.beyondCap++
        this.waiting = { since: now, delay }
        break
      }
      case "Dialing":
        if (this.losses > 1 || this.openedAt !== undefined && this.losses === 0) this.untold++
        this.openedAt = undefined
        this.losses = 0
        if (this.waiting !== undefined) {
          const waited = now - this.waiting.since
          this.early = Math.max(this.early, this.waiting.delay - waited)
          this.late = Math.max(this.late, waited - this.waiting.delay)
        }
        this.waiting = undefined
    }
  }

  get verdict(): Verdict {
    const { beyondCap, early, late, lost, miscounted, opened, untold, waits } = this
    return { opened, lost, untold, waits, late, early, beyondCap, miscounted }
  }
}

/** The schedule's longest delay before this attempt. */
const capOf = (attempt: number): number => {
  const { factor, initial, max } = timing.backoff
  return Math.min(max, initial * factor ** (attempt - 1))
}
