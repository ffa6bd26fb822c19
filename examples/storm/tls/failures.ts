/** Connections that failed although they should have succeeded, by the cause. */
import type { NodeTicketCache } from "effect-holdfast/node"

export interface Failures {
  readonly cut: number
  readonly late: number
  /** The server's identity was not accepted. */
  readonly forIdentity: number
  /** A network that only cuts, stalls and delays does not cause these. */
  readonly others: ReadonlyArray<string>
}

/** The errors of a connection that is cut midway, depending on which side is the first to write again. */
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
