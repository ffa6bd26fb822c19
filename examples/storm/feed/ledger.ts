/**
 * The results of the feed, judged by the server's journal, the network's records and the clients' records.
 */
import type { Section } from "../ledger.js"
import type { AuthorizationServer } from "../session/authorization-server.js"
import type { Tally } from "./crowd.js"
import type { Verdict } from "./events.js"
import type { Gate } from "./gate.js"
import type { Entry } from "./journal.js"

export interface Evidence {
  /** `late`: the longest delay of the event loop in the clients' process, in milliseconds. */
  readonly tally: Tally & { readonly late: number }
  readonly journal: ReadonlyArray<Entry>
  readonly gate: Awaited<ReturnType<Gate["report"]>>
  readonly tokens: Awaited<ReturnType<AuthorizationServer["report"]>>
  readonly revocations: number
  readonly kills: number
  readonly clients: number
  /** How many of them had, at the end, exactly the subscriptions at the server that they expected. */
  readonly wellSubscribed: number
  readonly openConnections: number
  /** In milliseconds: after this much silence a client must end its connection. */
  readonly patience: number
}

/** In milliseconds: what an overloaded machine may add to the measured delays. */
export const allowance = 250

export const section = (evidence: Evidence): Section => {
  const { clients, gate, journal, kills, openConnections, patience, revocations, tally, tokens, wellSubscribed } =
    evidence
  const { gaveUp, late } = tally

  const said = sum(Object.values(tally.said))
  const acknowledged = sum(Object.values(tally.acknowledged))
  const arrivals = arrivalsIn(journal)
  const lost = sum(
    Object.entries(tally.said).map(([client, count]) =>
      numbersTo(count).filter((number) => !arrivals.has(`${client} ${number}`)).length
    )
  )
  const accepted = arrivals.size
  const twice = count(journal, ([kind]) => kind === "accepted") - accepted
  const repeats = count(journal, ([kind]) => kind === "repeated")
  const reordered = reorderedIn(journal)
  const unacknowledged = sum(
    Object.entries(tally.said).map(([client, count]) => Math.max(0, count - (tally.acknowledged[client] ?? 0)))
  )

  const spoke = journal.filter((entry) => entry[0] === "spoke")
  const unready = count(spoke, ([, , ready]) => ready === false)

  const events = total(tally.events)
  // The client may be late twice, with its ping and with its end, and the gate once, when it notices that end.
  const silenceAllowed = allowance + 2 * late + gate.late
  const lateAllowed = allowance + late
  // A socket's events are read as soon as the event loop allows, and their clock has whole milliseconds.
  const earlyAllowed = 2 + late

  const died = tokens.revoked + tokens.expired
  const renewals = tokens.issued - 1
  const reasons = gaveUp.length === 0 ? "" : ` (${gaveUp.join(", ")})`

  return {
    part: "feed",
    entries: [
      {
        promise: "every message arrives",
        held: said > 0 && lost === 0 && gaveUp.length === 0,
        // A message that is not acknowledged either may still be in transit.
        onlyTimeWasMissing: lost <= unacknowledged && gaveUp.length === 0,
        happened: `${said} said by ${clients} clients, ${accepted} accepted, ${lost} lost; the server was killed ` +
          `${kills} times, ${gaveUp.length} gave up${reasons}`
      },
      {
        promise: "messages arrive once, in order",
        held: twice === 0 && reordered === 0,
        happened: `${reordered} reordered, ${twice} accepted twice, ${repeats} repeats recognised`
      },
      {
        promise: "every message is acknowledged",
        held: unacknowledged === 0 && tally.flushed === clients,
        onlyTimeWasMissing: true,
        happened:
          `${acknowledged} acknowledged, ${unacknowledged} not; ${tally.flushed} clients had no unacknowledged messages`
      },
      {
        promise: "each client keeps its subscriptions",
        held: wellSubscribed === clients && tally.outOfOrder === 0 && tally.missing === 0 && tally.heard > 0,
        onlyTimeWasMissing: tally.outOfOrder === 0 && tally.missing === 0,
        happened:
          `${tally.swaps} changed, ${wellSubscribed} of ${clients} clients have theirs; ${tally.heard} heard, ` +
          `${tally.outOfOrder} out of order, ${tally.missing} missing`
      },
      {
        promise: "subscriptions come before messages",
        held: spoke.length > 0 && unready === 0,
        onlyTimeWasMissing: unready === 0,
        happened: `${unready} of ${spoke.length} connections had a message before their subscriptions`
      },
      {
        promise: "each loss is reported once",
        held: events.opened > clients && events.untold === 0,
        onlyTimeWasMissing: events.untold === 0,
        happened: `${events.opened} opened, ${events.lost} losses, ${events.untold} not reported, or reported twice`
      },
      {
        promise: "silent connections are noticed",
        held: gate.longestSilence <= patience + silenceAllowed && gate.noticed === gate.halfOpen,
        onlyTimeWasMissing: true,
        happened:
          `${gate.longestSilence} ms at the longest, of ${patience} + ${silenceAllowed}; ${gate.halfOpen} half-open, ` +
          `${gate.noticed} noticed after ${gate.longestSilenceHalfOpen} ms at most`
      },
      {
        promise: "attempts keep to the schedule",
        held: events.waits > 0 && events.beyondCap + events.miscounted === 0 && events.late <= lateAllowed &&
          events.early <= earlyAllowed,
        // Whether a connection was stable is judged by the times at which its events were read.
        onlyTimeWasMissing: events.beyondCap === 0,
        happened: `${events.waits} waits, ${events.beyondCap} beyond the schedule, ${events.miscounted} miscounted; ` +
          `${events.late} ms late at worst, of ${lateAllowed}, and ${events.early} early, of ${earlyAllowed}`
      },
      {
        promise: "a dead token is renewed once",
        held: renewals === died && tokens.needless === 0,
        happened:
          `${died} died (${tokens.revoked} of ${revocations} revocations, ${tokens.expired} of age), ${renewals} ` +
          `renewals for ${clients} clients, ${tokens.needless} needless`
      },
      {
        promise: "the clients are closed",
        held: openConnections === 0,
        onlyTimeWasMissing: true,
        happened: `${openConnections} connections are open`
      }
    ],
    counts: {
      said,
      accepted,
      acknowledged,
      lost,
      reordered,
      repeats,
      swaps: tally.swaps,
      heard: tally.heard,
      kills,
      revocations,
      closedWith: tallied(journal, "closed"),
      refusedWith: tallied(journal, "refused"),
      gate,
      events,
      tokens,
      late
    }
  }
}

const arrivalsIn = (journal: ReadonlyArray<Entry>): ReadonlySet<string> =>
  new Set(journal.flatMap((entry) => entry[0] === "accepted" ? [`${entry[1]} ${entry[2]}`] : []))

/** Messages that were accepted after one with a higher number of the same client. */
const reorderedIn = (journal: ReadonlyArray<Entry>): number => {
  const highest = new Map<string, number>()
  let reordered = 0
  for (const entry of journal) {
    if (entry[0] !== "accepted") continue
    const [, client, number] = entry
    const before = highest.get(client) ?? 0
    if (number < before) reordered++
    highest.set(client, Math.max(before, number))
  }
  return reordered
}

const tallied = (journal: ReadonlyArray<Entry>, kind: "closed" | "refused"): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const entry of journal) {
    if (entry[0] === kind) counts[entry[1]] = (counts[entry[1]] ?? 0) + 1
  }
  return counts
}

const total = (verdicts: ReadonlyArray<Verdict>): Verdict => {
  const of = (name: keyof Verdict) => sum(verdicts.map((verdict) => verdict[name]))
  return {
    opened: of("opened"),
    lost: of("lost"),
    untold: of("untold"),
    waits: of("waits"),
    late: Math.round(Math.max(0, ...verdicts.map(({ late }) => late))),
    early: Math.round(Math.max(0, ...verdicts.map(({ early }) => early))),
    beyondCap: of("beyondCap"),
    miscounted: of("miscounted")
  }
}

const count = <A>(all: ReadonlyArray<A>, is: (one: A) => boolean): number => all.filter(is).length

const numbersTo = (last: number): ReadonlyArray<number> => Array.from({ length: last }, (_, place) => place + 1)

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, number) => total + number, 0)
