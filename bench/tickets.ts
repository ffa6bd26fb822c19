/**
 * TLS tickets: how many connections resume, how often a ticket is offered that was offered before, and what a
 * handshake costs, whole and resumed.
 *
 * The servers are in a process of their own on this machine, with certificates that a root has signed by way of an
 * intermediate one. A relay in front of the servers reads which tickets are offered and accepted.
 */
import type { Budget } from "./budget.js"
import { paired, summarize, type Summary } from "./interleave.js"
import { count, printTable, printTarget, spread } from "./table.js"
import { measureBursts } from "./tickets/bursts.js"
import { type Certificates, makeCertificates } from "./tickets/certificates.js"
import { measureCosts, type Operation } from "./tickets/costs.js"
import {
  anyTicket,
  bareFull,
  bareResumed,
  bareSharedFull,
  bareSharedResumed,
  type Contender as Handshaker,
  contenders as handshakers,
  type Cost,
  type Found,
  holdfastFull,
  holdfastResumed,
  measureHandshakes
} from "./tickets/handshakes.js"
import { type Contender as Pool, contenders as pools, holdfast, holdfastAgent } from "./tickets/pools.js"
import { hasOpenssl, type Report, type Server, startServers } from "./tickets/server.js"

const versions = ["TLSv1.3", "TLSv1.2"] as const

export const run = async (budget: Budget): Promise<void> => {
  const certificates = await makeCertificates("P-256")
  const withEachKey = budget.name === "quick"
    ? [["P-256", certificates] as const]
    : [["RSA-2048", await makeCertificates("RSA-2048")] as const, ["P-256", certificates] as const]
  const kinds = versions.flatMap((version) =>
    withEachKey.map(([keys, certificates]) => ({ version, keys, certificates }))
  )
  const servers = await startServers([
    { kind: "http", certificates },
    ...kinds.map(({ certificates, version }) => ({ kind: "silent", certificates, version } as const)),
    ...hasOpenssl ? [{ kind: "openssl", certificates } as const] : []
  ])
  try {
    const [sparing, ...others] = servers.all
    await measureAll(
      { sparing: sparing!, replenishing: others[kinds.length] },
      kinds.map(({ certificates, keys, version }, index) => ({
        name: `${version.replace("v", " ")}, ${keys}`,
        root: certificates.root,
        server: others[index]!
      })),
      certificates,
      budget
    )
  } finally {
    await servers.stop()
  }
}

interface Kind {
  readonly name: string
  readonly root: string
  readonly server: Server
}

/** `replenishing` is OpenSSL's own server, if its command is there. */
interface Pooled<A> {
  readonly sparing: A
  readonly replenishing: A | undefined
}

const measureAll = async (
  { replenishing, sparing }: Pooled<Server>,
  kinds: ReadonlyArray<Kind>,
  { root }: Certificates,
  budget: Budget
): Promise<void> => {
  const isQuick = budget.name === "quick"
  const width = isQuick ? 10 : 50
  // If the server gives no new tickets, two of three bursts find tickets, so complete turns of three are counted.
  const bursts = isQuick ? 3 : 9
  const atReplenishing = replenishing && await measureBursts(pools, replenishing, root, width, bursts)
  const atSparing = await measureBursts(pools, sparing, root, width, bursts)
  printBursts({ replenishing: atReplenishing, sparing: atSparing }, width, bursts)

  const handshakes = isQuick ? 2 : 10
  const handshakeRounds = Math.ceil(budget.rounds / 4)
  const found: Array<Handshakes> = []
  for (const { name, root, server } of kinds) {
    // Code that the first contender has compiled is also used by the others.
    const warmUp = isQuick || found.length > 0 ? 1 : 10
    const amount = { handshakes, rounds: handshakeRounds, warmUp }
    found.push({ name, found: await measureHandshakes(server, root, amount) })
  }
  for (const kind of found) printHandshakes(kind, handshakes, handshakeRounds)
  printComparison(found)

  const rounds = Math.floor(budget.rounds / 2)
  const [{ root: ca, server }] = kinds as [Kind]
  const ticketed = await anyTicket(server.port, ca)
  const costs = await measureCosts(ticketed, ca, rounds, isQuick ? 2 : budget.slice)
  printCosts(costs, ticketed.ticket.session.length, rounds)

  console.log("\nTargets for Holdfast\n")
  printBurstTargets({ replenishing: atReplenishing, sparing: atSparing }, width)
  printCostTargets(costs)
}

// -----------------------------------------------------------------------------
// bursts
// -----------------------------------------------------------------------------

type Bursts = ReadonlyMap<Pool, ReadonlyArray<Report>>

const sum = (reports: ReadonlyArray<Report>, field: keyof Report): number =>
  reports.reduce((all, report) => all + report[field], 0)

const resumedOf = (reports: ReadonlyArray<Report>): string =>
  `${count(sum(reports, "resumed"))} of ${count(sum(reports, "connections"))}`

const repeatedOf = (reports: ReadonlyArray<Report>): string =>
  `${count(sum(reports, "repeated"))} of ${count(sum(reports, "offered"))}`

const printBursts = (found: Pooled<Bursts>, width: number, bursts: number) => {
  printTable(
    `C7: ${bursts} bursts of ${width} connections, after one that had no tickets, TLS 1.3: connections resumed, ` +
      "and of the tickets offered those that had been offered before",
    ["bursts", "resumed: s_server", "offered again", "resumed: Node's server", "offered again", "of each burst"],
    pools.map((contender) => {
      const replenishing = found.replenishing?.get(contender)
      const sparing = found.sparing.get(contender)!
      return [
        contender.name,
        replenishing ? resumedOf(replenishing) : "",
        replenishing ? repeatedOf(replenishing) : "",
        resumedOf(sparing),
        repeatedOf(sparing),
        sparing.map(({ resumed }) => resumed).join(" ")
      ]
    })
  )
  console.log(
    found.replenishing
      ? "\ns_server is OpenSSL's: it gives a ticket to a connection that was resumed, and Node's server gives none."
      : "\nThere is no openssl command here: OpenSSL's s_server is left out."
  )
}

const printBurstTargets = ({ replenishing, sparing }: Pooled<Bursts>, width: number) => {
  for (const contender of replenishing ? [holdfast, holdfastAgent] : []) {
    const reports = replenishing!.get(contender)!
    printTarget(
      `${contender.name}: ${width} of ${width} resumed where the server replenishes`,
      reports.every(({ connections, resumed }) => resumed === connections),
      resumedOf(reports)
    )
  }
  for (const contender of [holdfast, holdfastAgent]) {
    const reports = sparing.get(contender)!
    printTarget(
      `${contender.name}: 2 of 3 resumed by Node's server`,
      3 * sum(reports, "resumed") >= 2 * sum(reports, "connections"),
      resumedOf(reports)
    )
  }
  for (const contender of [holdfast, holdfastAgent]) {
    const reports = [...replenishing?.get(contender) ?? [], ...sparing.get(contender)!]
    printTarget(`${contender.name}: no ticket offered twice`, sum(reports, "repeated") === 0, repeatedOf(reports))
  }
}

// -----------------------------------------------------------------------------
// handshakes
// -----------------------------------------------------------------------------

interface Handshakes {
  readonly name: string
  readonly found: ReadonlyMap<Handshaker, Found>
}

const cpuMicros = (cost: Cost) => cost.cpuMicros
const micros = (cost: Cost) => cost.micros

const against = (
  { found }: Handshakes,
  contender: Handshaker,
  peer: Handshaker,
  field: (cost: Cost) => number,
  f: (own: number, other: number) => number
): Summary => paired(found.get(contender)!.costs.map(field), found.get(peer)!.costs.map(field), f)

const ratio = (own: number, other: number) => own / other
const difference = (own: number, other: number) => own - other

const printHandshakes = (handshakes: Handshakes, each: number, rounds: number) => {
  printTable(
    `${handshakes.name}: a handshake, one at a time (median and quartiles of ${rounds} rounds of ${each}); ` +
      "its peer is tls.connect with the same ticket, or none",
    ["handshake", "µs", "to its peer", "client's CPU µs", "to its peer", "bytes down", "bytes up"],
    handshakers.map((contender) => {
      const { costs, down, up } = handshakes.found.get(contender)!
      const peer = contender.isResumed ? bareResumed : bareFull
      return [
        contender.name,
        spread(summarize(costs.map(micros)), 0),
        spread(against(handshakes, contender, peer, micros, ratio), 2),
        spread(summarize(costs.map(cpuMicros)), 0),
        spread(against(handshakes, contender, peer, cpuMicros, ratio), 2),
        count(down),
        count(up)
      ]
    })
  )
}

const pairs: ReadonlyArray<readonly [name: string, full: Handshaker, resumed: Handshaker]> = [
  ["Holdfast", holdfastFull, holdfastResumed],
  ["tls.connect", bareFull, bareResumed],
  ["tls.connect, shared context", bareSharedFull, bareSharedResumed]
]

const contexts: ReadonlyArray<readonly [name: string, own: Handshaker, shared: Handshaker]> = [
  ["full", bareFull, bareSharedFull],
  ["resumed", bareResumed, bareSharedResumed]
]

const printComparison = (all: ReadonlyArray<Handshakes>) => {
  for (const [what, field] of [["time", micros], ["client's CPU", cpuMicros]] as const) {
    printTable(
      `C7: a full handshake's ${what}, as a multiple of a resumed one's`,
      ["full to resumed", ...all.map(({ name }) => name)],
      pairs.map(([name, full, resumed]) =>
        [name].concat(all.map((handshakes) => spread(against(handshakes, full, resumed, field, ratio), 2)))
      )
    )
  }
  printTable(
    "What a shared SecureContext saves tls.connect: microseconds of the client's CPU a handshake",
    ["saved", ...all.map(({ name }) => name)],
    contexts.map(([name, own, shared]) =>
      [name].concat(all.map((handshakes) => spread(against(handshakes, own, shared, cpuMicros, difference), 0)))
    )
  )
}

// -----------------------------------------------------------------------------
// costs
// -----------------------------------------------------------------------------

const mostMicros: Record<string, number> = { put: 2, take: 2, lifetime: 5 }

const printCosts = (costs: ReadonlyArray<Operation>, bytes: number, rounds: number) => {
  printTable(
    `CPU microseconds, with a session of ${
      count(bytes)
    } bytes (median and quartiles of ${rounds} rounds); what a Map does is neither single use nor bounded`,
    ["operation", "CPU µs"],
    costs.map(({ micros, name }) => [name, spread(micros, 2)])
  )
}

const printCostTargets = (costs: ReadonlyArray<Operation>) => {
  for (const { micros, name } of costs) {
    const most = mostMicros[name]
    if (most !== undefined) printTarget(`${name}: under ${most} µs`, micros.median < most, `${spread(micros, 2)} µs`)
  }
}
