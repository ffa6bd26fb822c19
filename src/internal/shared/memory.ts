/**
 * The memory that one process has of the session that it shares. Each function is one step.
 */
import type { Row } from "../../SessionStore.js"
import * as Protocol from "./protocol.js"
import type { Time } from "./rows.js"

/** A value that the upstream has given to this process, and that is not in the row yet. */
export interface Pending<out A> {
  readonly value: A
  readonly encoded: string
  readonly taken: Protocol.Taken
  /** On the monotonic clock; `Infinity`: never. */
  readonly goodUntil: number
}

/** An `end` that has not reached the row. */
export interface OwedEnd {
  /** The last version that this process knew, and its sign-in. */
  readonly version: number
  readonly origin: number
  /** The holder that was about to commit a value: if that has reached the row, it is to be ended too. */
  readonly holder: string | undefined
}

export class Memory<A> {
  /** The value of the last version, decoded. `undefined` before the first one, and when it was ended. */
  value: { readonly is: A } | undefined
  pending: Pending<A> | undefined
  owedEnd: OwedEnd | undefined
  /** A value of this process that is in the row, and that the process's own session has not taken yet. */
  undelivered: { readonly is: A } | undefined
  /** Raised by `end` in this process: what was begun before it is detached. */
  epoch = 0
  /** A caller has ended the cooldown: the next look does not heed the row's. */
  isWoken = false
  /**
   * The revision of the row with this process's own last failure. The session itself has been told of that failure, and
   * knows when it tries again: such a row's cooldown is for the others.
   */
  failedRevision: number | undefined
  /** The number of refreshes under way. */
  active = 0
  /** The number of notices that have come. */
  heard = 0
  /** Whether a fiber in the background writes what could not be written. */
  isSettling = false

  private last: Protocol.Known = Protocol.nothing
  /** On the monotonic clock; `Infinity`: never. */
  private goodUntil = Infinity
  private readonly monotonic: () => number

  constructor(monotonic: () => number) {
    this.monotonic = monotonic
  }

  get version(): number {
    return this.last.version
  }

  /** How long the value is still good for, in milliseconds. */
  get left(): number {
    return this.goodUntil - this.monotonic()
  }

  known(): Protocol.Known {
    return { ...this.last, lifetime: this.goodUntil === Infinity ? null : Math.max(0, this.left) }
  }

  /** Remembers a row that was read or written; `value` is what is in it, decoded. */
  remember(row: Row, { askedAt, now }: Time, value: { readonly is: A } | undefined): void {
    this.last = Protocol.adopt(row, now)
    this.goodUntil = this.last.lifetime === null ? Infinity : askedAt + this.last.lifetime
    this.value = value
    this.undelivered = undefined
  }

  /** The remembered value is over, though the row does not say so yet. */
  forget(): void {
    this.last = { ...this.last, value: null, lifetime: null }
    this.goodUntil = Infinity
    this.value = undefined
    this.undelivered = undefined
  }
}
