/**
 * A ticket as the store keeps it and hands it out: a copy that prints no secret, and that the store recognises.
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

  /** Orders tickets that were issued in the same second. A ticket that no store has made comes last. */
  static placeOf(ticket: Ticket): number {
    return #place in ticket ? ticket.#place : Infinity
  }

  /** The name was read when the ticket was stored: the session of a spent ticket is overwritten with zeros. */
  static keyNameOf(ticket: Ticket): string | undefined {
    return #keyName in ticket ? ticket.#keyName : keyNameOf(ticket.session)
  }

  // A getter of the prototype: code that copies or prints the own properties of any value copies or prints no secret.
  // Enumerable, so that comparisons of tickets still see it.
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
 * Names the key that the server made the ticket with: the ticket's first 16 bytes, if the server follows RFC 5077
 * (section 4) as OpenSSL does. The name is no secret: every offer shows it.
 */
const keyNameOf = (session: Uint8Array): string | undefined => {
  const ticket = readTlsTicket(session) ?? session
  return ticket.length < 16 ? undefined : String.fromCharCode(...ticket.subarray(0, 16))
}
