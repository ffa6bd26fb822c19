/** What has become of the tickets, judged by what the server knows and what can be seen on the wire. */
import type { Stats } from "effect-holdfast/TicketCache"
import type { Section } from "../ledger.js"
import type { Failures } from "./failures.js"
import type { Visits } from "./visitors.js"
import type { Wiretap } from "./wiretap.js"

export interface Evidence {
  readonly wire: Awaited<ReturnType<Wiretap["report"]>>
  /** Handshakes that the server has seen the end of. */
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
          `${wire.cut} were cut in their midst`
      },
      {
        promise: "no ticket is offered twice",
        held: wire.offered > 0 && wire.offeredTwice === 0,
        onlyTimeWasMissing: wire.offeredTwice === 0,
        happened: `${wire.offered} offered, ${wire.offeredTwice} of them for the second time`
      },
      {
        promise: "the client knows what became of each",
        // A resuming client knows the result before the server does, and after the wire: the network may cut in
        // between.
        held: cache.offered === wire.offered && server.resumed <= cache.resumed && cache.resumed <= wire.taken,
        happened: `${cache.offered} offered and ${cache.resumed} resumed, it says; the wire says ${wire.offered} and ` +
          `${wire.taken}, the server ${server.resumed}`
      },
      {
        promise: "nobody is troubled by new keys",
        held: rotations > 0 && wire.notTaken > 0 && failures.others.length === 0 && failures.cut <= cuts,
        onlyTimeWasMissing: failures.others.length === 0 && failures.cut <= cuts,
        happened: `${wire.notTaken} tickets were not taken; ${failures.cut} connections failed, of ${cuts} that the ` +
          `network cut, ${failures.late} more by a stall, and ${failures.others.length} otherwise${others}`
      },
      {
        promise: "no stranger is let in",
        held: strangers.refused > 0 && strangers.refused === met,
        onlyTimeWasMissing: strangers.letIn === 0,
        happened:
          `${met} came to another name or trusted another authority, ${strangers.refused} refused for identity, ` +
          `${strangers.letIn} let in, ${strangers.lost + strangers.waiting} unanswered`
      },
      {
        promise: "and nobody else is refused",
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
