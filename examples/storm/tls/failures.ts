/** Connections that did not come about though they should have, by whom that can be laid on. */
import type { NodeTicketCache } from "effect-holdfast/node"

export interface Failures {
  readonly cut: number
  readonly late: number
  /** The server was not taken for itself. */
  readonly forIdentity: number
  /** A network that does no more than cut, stall and delay is not to blame for these. */
  readonly others: ReadonlyArray<string>
}

/** The errors of a connection that is cut midway, whichever side is the first to write again. */
const cuts: ReadonlySet<string | undefined> = new Set(["ECONNRESET", "EPIPE"])

export const make = () => {
  const failures = { cut: 0, late: 0, forIdentity: 0, others: [] as Array<string> }
  // Several requests may have waited for one connection.
  const known = new WeakSet<NodeTicketCache.TlsError>()
  return {
    failures: failures as Failures,
    note: (error: NodeTicketCache.TlsError): void => {
      if (known.has(error)) return
      known.add(error)
      const { code, reason } = error
      if (reason === "Identity") failures.forIdentity++
      else if (reason === "Timeout") failures.late++
      else if (reason !== "Closed" && cuts.has(code)) failures.cut++
      else failures.others.push(`${reason} ${code}`)
    }
  }
}
