/** The results of the gateway, judged by its own sessions and by the events that the clients received. */
import type { Section } from "../ledger.js"
import type { Clients } from "./clients.js"
import type { Gateway } from "./server.js"

export interface Evidence {
  readonly tally: Awaited<ReturnType<Clients["report"]>>
  readonly gateway: Awaited<ReturnType<Gateway["report"]>>
  /** How many logins of a client the gateway allows within a second. */
  readonly limit: number
  /** How often each fault has occurred. */
  readonly faults: Readonly<Record<string, number>>
}

export const section = ({ faults, gateway, limit, tally }: Evidence): Section => {
  // If the answer to its login was lost, a client does not know the session.
  const known = gateway.sessions.filter(({ id }) => tally.sessions[id] !== undefined)
  const heard = known.map((session) => ({ ...session, ...tally.sessions[session.id]! }))
  const events = sum(heard.map(({ heard }) => heard))
  const twice = sum(heard.map(({ twice }) => twice))
  const outOfOrder = sum(heard.map(({ outOfOrder }) => outOfOrder))
  const gaps = sum(heard.map(({ heard, highest }) => highest - heard))
  // The last events of a session that has become invalid are lost.
  const late = sum(heard.map(({ highest, isForgotten, published }) => isForgotten ? 0 : published - highest))
  const { asked, heartbeats, identified, invalid, mostLogins, resumed, tooMany, unanswered } = gateway
  return {
    part: "gateway",
    entries: [
      {
        promise: "no event is missing",
        held: events > 0 && gaps === 0 && late === 0 && tally.gaveUp.length === 0,
        onlyTimeWasMissing: gaps === 0 && tally.gaveUp.length === 0,
        happened: `${events} heard in ${known.length} sessions, ${gaps + late} missing; ` +
          `${invalid} sessions had become invalid, ${tally.gaveUp.length} gave up`
      },
      {
        promise: "no event comes twice or out of order",
        held: twice === 0 && outOfOrder === 0,
        happened: `${twice} twice, ${outOfOrder} out of order; ${resumed} times a session was resumed`
      },
      {
        promise: "clients send their heartbeats",
        held: heartbeats > 0 && unanswered === 0,
        onlyTimeWasMissing: true,
        happened: `${heartbeats} heartbeats, ${asked} asked for, ${unanswered} of these not answered`
      },
      {
        promise: "no client logs in too often",
        held: identified > 0 && mostLogins <= limit && tooMany === 0,
        onlyTimeWasMissing: tooMany === 0,
        happened: `${
          identified + resumed + invalid
        } logins, at most ${mostLogins} of a client within a second, of ${limit}`
      }
    ],
    counts: { events, twice, outOfOrder, gaps, late, faults, gateway }
  }
}

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, number) => total + number, 0)
