/** The memory of a shared session that one process has. Each function is one step. */
import type { Row } from "../../SessionStore.js"
import * as Protocol from "./protocol.js"
import type { Time } from "./rows.js"

/** A value that the upstream has given to this process and that is not in the row yet. */
export interface Pending<out A> {
  readonly value: A
  readonly encoded: string
  readonly taken: Protocol.Taken
  /** When the value expires, on the monotonic clock; `Infinity` if never. */
  readonly goodUntil: number
}

/** An `end` that has not reached the row. */
export interface OwedEnd {
  /** The last version that this process knew. `origin` is the sign-in that it came from. */
  readonly version: number
  readonly origin: number
  /** The lease holder that was about to commit a value: if that value has reached the row, it must be ended, too. */
  readonly holder: string | undefined
}

export class Memory<A> {
  /** The value of the last version, decoded. `undefined` before the first one, and when it was ended. */
  value: { readonly is: A } | undefined
  pending: Pending<A> | undefined
  owedEnd: OwedEnd | undefined
  /** A value that this process has written into the row, but that its own session has not taken yet. */
  undelivered: { readonly is: A } | undefined
  /** Incremented by `end` in this process: work that was begun before is detached. */
  epoch = 0
  /** Whether a caller has ended the cooldown: the next refresh then ignores the row's cooldown. */
  isWoken = false
  /**
   * The revision of the row with this process's own last failure. The session itself knows of that failure, and knows
   * when it tries again: the row's cooldown is for the other processes.
   */
  failedRevision: number | undefined
  /** The number of running refreshes. */
  active = 0
  /** The number of notices that have arrived. */
  heard = 0
  /** Whether a fiber in the background is writing what could not be written before. */
  isSettling = false

  private last: Protocol.Known = Protocol.nothing
  /** When the value expires, on the monotonic clock; `Infinity` if never. */
  private goodUntil = Infinity
  private readonly monotonic: () => number

  constructor(monotonic: () => number) {
    this.monotonic = monotonic
  }

  get version(): number {
    return this.last.version
  }

  /** How long the value is still valid, in milliseconds. */
  get left(): number {
    return this.goodUntil - this.monotonic()
  }

  known(): Protocol.Known {
    return { ...this.last, lifetime: this.goodUntil === Infinity ? null : Math.max(0, this.left) }
  }

  /** Remembers a row that was read or written; `value` is its decoded value. */
  remember(row: Row, { askedAt, now }: Time, value: { readonly is: A } | undefined): void {
    this.last = Protocol.adopt(row, now)
    this.goodUntil = this.last.lifetime === null ? Infinity : askedAt + this.last.lifetime
    this.value = value
    this.undelivered = undefined
  }

  /**
   * The value is no longer presented: its credential was refused. The row may still have it, and another process may be
   * presenting it, so this process still knows that version.
   */
  refuse(): void {
    this.value = undefined
    this.undelivered = undefined
  }

  /** Forgets the remembered value, although the row does not say so yet. */
  forget(): void {
    this.last = { ...this.last, value: null, lifetime: null }
    this.goodUntil = Infinity
    this.value = undefined
    this.undelivered = undefined
  }
}
