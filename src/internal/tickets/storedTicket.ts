/**
 * The form in which the store keeps and gives out a ticket: a copy that prints no secret, and that the store
 * recognises.
 */
import * as Inspectable from "effect/Inspectable"
import type { Ticket } from "../../TicketCache.js"
import { readTlsTicket } from "../tlsSession.js"

let nextPlace = 0

export class StoredTicket extends Inspectable.Class implements Ticket {
  declare readonly session: Uint8Array
  readonly expiresAt: number
  readonly issuedAt: number
  readonly #session: Uint8Array
  readonly #place = nextPlace++
  readonly #keyName: string | undefined

  /** Orders tickets that were issued in the same second. A ticket that was not made by a store comes last. */
  static placeOf(ticket: Ticket): number {
    return #place in ticket ? ticket.#place : Infinity
  }

  /**
   * The key's name. It was read when the ticket was stored, since the session of a spent ticket is overwritten with
   * zeros.
   */
  static keyNameOf(ticket: Ticket): string | undefined {
    return #keyName in ticket ? ticket.#keyName : keyNameOf(ticket.session)
  }

  // A getter of the prototype, so that code which copies or prints an object's own properties copies or prints no
  // secret. It is enumerable, so that comparisons of tickets still see it.
  static {
    Object.defineProperty(this.prototype, "session", {
      enumerable: true,
      get(this: StoredTicket) {
        return this.#session
      }
    })
  }

  constructor({ expiresAt, issuedAt, session }: Ticket) {
    super()
    this.#session = new Uint8Array(session)
    this.#keyName = keyNameOf(this.#session)
    this.expiresAt = expiresAt
    this.issuedAt = issuedAt
  }

  toJSON() {
    return {
      _id: "effect-holdfast/TicketCache/Ticket",
      session: "<redacted>",
      expiresAt: this.expiresAt,
      issuedAt: this.issuedAt
    }
  }
}

/**
 * The name of the key with which the server made the ticket: the ticket's first 16 bytes, if the server follows RFC
 * 5077 (section 4) as OpenSSL does. The name is not secret, since every offer shows it.
 */
const keyNameOf = (session: Uint8Array): string | undefined => {
  const ticket = readTlsTicket(session) ?? session
  return ticket.length < 16 ? undefined : String.fromCharCode(...ticket.subarray(0, 16))
}
