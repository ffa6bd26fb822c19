/** Reports a socket to an Inspector. Made only if there is an Inspector. */
import * as Duration from "effect/Duration"
import type { SocketCounts, SocketRow } from "../../Inspector.js"
import type { SocketEvent } from "../../ReconnectingSocket.js"
import type { Registered, Registry } from "../registry.js"
import { labelOf } from "./policy.js"
import type { Held } from "./telemetry.js"

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends object ? Record<string, number> : T[K] }

export class Inspected {
  private readonly registered: Registered
  private counts = noCounts()
  private state: SocketRow["state"] = "Dialing"
  private since: number
  private attempt = 0
  private delay: number | null = null
  private until: number | null = null
  private failure: string | null = null
  private roundTrip: number | null = null

  constructor(registry: Registry, name: () => string, held: () => Held) {
    this.registered = registry.add({
      kind: "sockets",
      name,
      read: () => this.row(held()),
      counts: () => this.counts
    })
    this.since = this.registered.now()
  }

  private row({ messages, oldest, unacknowledged }: Held): Omit<SocketRow, "id" | "name"> {
    const { attempt, counts, delay, failure, roundTrip, since, state, until } = this
    return {
      state,
      since,
      attempt,
      delay,
      until,
      failure,
      outbox: messages,
      unacknowledged,
      oldest: oldest === 0 ? null : oldest,
      roundTrip,
      dials: { ...counts.dials },
      opened: counts.opened,
      lost: { ...counts.lost },
      rejected: { ...counts.rejected },
      dropped: { ...counts.dropped },
      roundTrips: counts.roundTrips
    }
  }

  showState(state: SocketRow["state"]): void {
    this.state = state
    this.since = this.registered.now()
  }

  /** Called when the socket gets its name. Its metrics so far have the former one. */
  named(former: string): void {
    if (Object.keys(this.counts.dials).length === 0) return
    this.registered.addToGone(former, this.counts)
    this.counts = noCounts()
  }

  dialed(outcome: string): void {
    increment(this.counts.dials, outcome)
  }

  answered(seconds: number): void {
    this.counts.roundTrips++
    this.roundTrip = seconds * 1000
  }

  note(event: SocketEvent): void {
    const { counts, registered } = this
    switch (event._tag) {
      case "Dialing":
        this.attempt = event.attempt
        this.delay = this.until = null
        return registered.note("Dialing")
      case "Opened":
        counts.opened++
        this.failure = null
        return registered.note("Opened")
      case "Lost":
        this.failure = labelOf(event.failure)
        increment(counts.lost, this.failure)
        return registered.note("Lost", this.failure)
      case "Waiting":
        this.attempt = event.attempt
        this.delay = Duration.toMillis(event.delay)
        this.until = event.until
        this.failure = labelOf(event.failure)
        return registered.note("Waiting", this.failure, this.delay)
      case "Rejected":
        increment(counts.rejected, event.callback)
        return registered.note("Rejected", event.callback)
      case "SubscriptionFailed":
        return registered.note("SubscriptionFailed")
      // A full outbox may drop thousands of messages, whose events would push out all others.
      case "Dropped":
        return increment(counts.dropped, event.reason)
      case "Expired":
        return increment(counts.dropped, event._tag)
      case "Closed":
        return registered.note("Closed", String(event.info.code))
    }
  }

  leave(): void {
    this.registered.leave()
  }
}

const noCounts = (): Mutable<SocketCounts> => ({
  dials: {},
  opened: 0,
  lost: {},
  rejected: {},
  dropped: {},
  roundTrips: 0
})

const increment = (counts: Record<string, number>, label: string): void => {
  counts[label] = (counts[label] ?? 0) + 1
}
