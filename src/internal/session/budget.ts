/**
 * The loop breaker: counts the recent renewals of the kind that an upstream causes when it refuses its own values.
 */
import * as Duration from "effect/Duration"

export interface Limit {
  readonly refreshes: number
  readonly within: Duration.Duration
}

export class Budget {
  /** The times at which the counted renewals began, on the monotonic clock, the oldest first. */
  private readonly demands: Array<number> = []
  private readonly limit: Limit

  constructor(limit: Limit) {
    this.limit = limit
  }

  count(now: number): void {
    this.demands.push(now)
  }

  /**
   * Takes back the last counted renewal, which did not ask the upstream because another process had already renewed.
   */
  giveBack(): void {
    this.demands.pop()
  }

  isSpent(now: number): boolean {
    const windowStart = now - Duration.toMillis(this.limit.within)
    while (this.demands.length > 0 && this.demands[0]! <= windowStart) this.demands.shift()
    return this.demands.length >= this.limit.refreshes
  }
}
