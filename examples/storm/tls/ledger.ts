/** The results of the tickets, judged by the server's records and the data on the wire. */
import type { Stats } from "effect-holdfast/TicketCache"
import type { Section } from "../ledger.js"
import type { Failures } from "./failures.js"
import type { Visits } from "./visitors.js"
import type { Wiretap } from "./wiretap.js"

export interface Evidence {
  readonly wire: Awaited<ReturnType<Wiretap["report"]>>
  /** Handshakes whose end the server has seen. */
  readonly server: { readonly full: number; readonly resumed: number }
  /** The client's own figures. */
  readonly cache: Stats
  readonly rotations: number
  readonly failures: Failures
  readonly guests: Visits
  readonly strangers: Visits
  readonly openConnections: number
}

export const section = (evidence: Evidence): Section => {
  const { cache, failures, guests, openConnections, rotations, server, strangers, wire } = evidence
  const others = failures.others.length === 0 ? "" : ` (${[...new Set(failures.others)].join(", ")})`
  const cuts = wire.cut + wire.cutElsewhere
  const met = strangers.letIn + strangers.refused + strangers.lost + strangers.waiting

  return {
    part: "tickets",
    entries: [
      {
        promise: "handshakes are resumed",
        held: server.resumed > 0,
        onlyTimeWasMissing: true,
        happened:
          `${server.full} handshakes in full, ${server.resumed} resumed; of ${wire.connections} that were begun ` +
          `${wire.cut} were cut midway`
      },
      {
        promise: "no ticket is offered twice",
        held: wire.offered > 0 && wire.offeredTwice === 0,
        onlyTimeWasMissing: wire.offeredTwice === 0,
        happened: `${wire.offered} offered, ${wire.offeredTwice} of them for the second time`
      },
      {
        promise: "the client counts them correctly",
        // A resuming client knows the result earlier than the server and later than the wire: the network may cut the
        // connection in between.
        held: cache.offered === wire.offered && server.resumed <= cache.resumed && cache.resumed <= wire.taken,
        happened:
          `the client counts ${cache.offered} offered and ${cache.resumed} resumed, the wire ${wire.offered} and ` +
          `${wire.taken}, the server ${server.resumed}`
      },
      {
        promise: "new ticket keys disturb no client",
        held: rotations > 0 && wire.notTaken > 0 && failures.others.length === 0 && failures.cut <= cuts,
        onlyTimeWasMissing: failures.others.length === 0 && failures.cut <= cuts,
        happened: `${wire.notTaken} tickets were not taken; ${failures.cut} connections failed, of ${cuts} that the ` +
          `network cut, ${failures.late} more by a stall, and ${failures.others.length} otherwise${others}`
      },
      {
        promise: "no stranger is let in",
        held: strangers.refused > 0 && strangers.refused === met,
        onlyTimeWasMissing: strangers.letIn === 0,
        happened: `${met} used another name or trusted another authority, ${strangers.refused} refused for identity, ` +
          `${strangers.letIn} let in, ${strangers.lost + strangers.waiting} unanswered`
      },
      {
        promise: "no other client is refused",
        held: guests.letIn > 0 && guests.refused + guests.lost + guests.waiting + failures.forIdentity === 0,
        onlyTimeWasMissing: guests.refused + failures.forIdentity === 0,
        happened:
          `${failures.forIdentity} of the crowd's and the guests' connections; ${guests.letIn} guests were let in`
      },
      {
        promise: "the connections are closed",
        held: openConnections === 0,
        onlyTimeWasMissing: true,
        happened: `${openConnections} connections are open`
      }
    ],
    counts: { ...evidence }
  }
}
