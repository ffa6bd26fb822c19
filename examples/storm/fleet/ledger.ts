/** The results of the fleet, judged by the authorization server's records and those of its members. */
import type { Section } from "../ledger.js"
import type { AuthorizationServer } from "../session/authorization-server.js"
import { areOnlySlow } from "../session/client.js"
import type { Member } from "./member.js"

/**
 * A member that was about to renew was killed or paused, and another one had renewed this number of milliseconds later.
 */
export interface Strike {
  readonly fault: "killed" | "paused"
  readonly millis: number
}

export interface Evidence {
  readonly processes: number
  readonly store: string
  /** The tallies of the living members. */
  readonly tallies: ReadonlyArray<Awaited<ReturnType<Member["report"]>>>
  readonly tokens: Awaited<ReturnType<AuthorizationServer["report"]>>
  readonly revocations: number
  readonly strikes: ReadonlyArray<Strike>
  /** In milliseconds. */
  readonly lease: number
  /** In milliseconds: the longest time for one renewal and a call that waits for it. */
  readonly patience: number
  readonly openConnections: number
}

export const section = (evidence: Evidence): Section => {
  const { lease, openConnections, patience, processes, revocations, store, strikes, tallies, tokens } = evidence
  const total = (count: (tally: Evidence["tallies"][number]) => number) => sum(tallies.map(count))
  const failed = merged(tallies.map(({ failed }) => failed))
  const failures = Object.entries(failed).map(([why, count]) => ` (${why} ${count})`).join("")
  const waiting = total(({ waiting }) => waiting)
  const slowest = Math.max(...tallies.map(({ slowest }) => slowest))
  // A member that is suspended for a third of its lease may lose the lease although it lives.
  const late = Math.max(...tallies.map(({ late }) => late))
  const wasStill = late >= lease / 3
  const died = tokens.revoked + tokens.expired
  const renewals = tokens.issued - 1
  const adopted = total(({ adopted }) => adopted)
  const tookOver = total(({ tookOver }) => tookOver)
  const struck = strikes.map(({ fault, millis }) =>
    `${fault} while it renewed; another one had renewed ${millis} ms later`
  )
  return {
    part: "fleet",
    entries: [
      {
        promise: "every process is served",
        held: tallies.every(({ served }) => served > 0) && failures === "" && waiting === 0,
        onlyTimeWasMissing: areOnlySlow(failed),
        happened: `${total(({ served }) => served)} orders saved by ${tallies.length} of ${processes} processes over ` +
          `${store}, ${sum(Object.values(failed))} failed${failures}, ${waiting} unanswered`
      },
      {
        promise: "one process renews for all",
        held: renewals === died && tokens.needless === 0,
        onlyTimeWasMissing: wasStill,
        happened: `${died} tokens died (${tokens.revoked} of ${revocations} revocations, ${tokens.expired} of age), ` +
          `${renewals} renewals, ${(renewals / Math.max(1, died)).toFixed(2)} for each`
      },
      {
        promise: "the others adopt the new token",
        held: adopted > 0,
        onlyTimeWasMissing: true,
        happened: `${adopted} adoptions in ${tallies.length} processes`
      },
      {
        promise: "a killed process delays no other",
        held: strikes.length === 2 && tookOver >= 2 && strikes.every(({ millis }) => millis <= lease + patience),
        onlyTimeWasMissing: true,
        happened: `${struck.join("; ")}, of ${lease} + ${patience}; ${tookOver} takeovers`
      },
      {
        promise: "no refresh token is used twice",
        held: tokens.presentedTwice === 0 && tokens.reuseDetections === 0,
        onlyTimeWasMissing: wasStill,
        happened: `${tokens.presentedTwice} presented twice, ${tokens.reuseDetections} reuse detections; a process ` +
          `was ${late} ms late at worst`
      },
      {
        promise: "no sign-in is needless",
        held: tokens.signIns <= 1 + tokens.grantsRevoked && tokens.needlessSignIns === 0,
        onlyTimeWasMissing: wasStill,
        happened: `${tokens.signIns} sign-ins, ${tokens.grantsRevoked} grants revoked`
      },
      {
        promise: "no caller waits long",
        held: slowest <= lease + patience,
        onlyTimeWasMissing: true,
        happened: `${slowest} ms at the longest, of ${lease} + ${patience}`
      },
      {
        promise: "the fleet is closed",
        held: openConnections === 0,
        onlyTimeWasMissing: true,
        happened: `${openConnections} connections are open`
      }
    ],
    counts: { processes, store, tallies, tokens, revocations, strikes, adopted, tookOver, renewals, died }
  }
}

const merged = (counts: ReadonlyArray<Readonly<Record<string, number>>>): Readonly<Record<string, number>> => {
  const all: Record<string, number> = {}
  for (const some of counts) for (const [name, count] of Object.entries(some)) all[name] = (all[name] ?? 0) + count
  return all
}

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, number) => total + number, 0)
