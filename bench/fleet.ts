/**
 * A fleet: how long it takes from the API's refusal of a token until the last process is served, and how many calls of
 * the store this needs. The processes, the server with its reuse detection and the stores are real.
 *
 * Without a database only the store in files is measured; a line says how to start what is missing. A quick run
 * measures only this store, since processes are slow to start.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { databases } from "../test/support/databases.js"
import { type FleetProcess, fleetProcess, type ProcessGone } from "../test/support/fleet.js"
import { type RotatingServer, rotatingServer } from "../test/support/rotatingServer.js"
import { hasSqlite, type StoreSettings } from "../test/support/stores.js"
import type { Budget } from "./budget.js"
import { summarize, type Summary } from "./interleave.js"
import { printTable, printTarget, spread } from "./table.js"

interface Contender {
  readonly name: string
  readonly store: StoreSettings
  readonly hears?: boolean
  readonly program?: URL
}

/** The results of one contender, over all its revocations. */
interface Result {
  readonly contender: Contender
  readonly millis: Summary
  /** Callers served, of all. */
  readonly served: number
  readonly asked: number
  readonly renewals: number
  readonly reused: number
  /** Calls of the store, by all processes, for each revocation. */
  readonly operations: number | undefined
}

interface Size {
  readonly processes: number
  readonly callers: number
  readonly revocations: number
  readonly idleMillis: number
}

const sizeOf = ({ bursts, name }: Budget): Size =>
  name === "quick"
    ? { processes: 3, callers: 10, revocations: bursts, idleMillis: 1000 }
    : { processes: 10, callers: 50, revocations: 10, idleMillis: 60_000 }

/** In milliseconds: the default, and a short one. */
const lease = { usual: 8000, short: 1000 }

export const run = async (budget: Budget): Promise<void> => {
  const root = mkdtempSync(join(tmpdir(), "holdfast-"))
  const size = sizeOf(budget)
  try {
    const { holdfast, rivals } = await contendersIn(root, budget.name === "quick")
    const results: Array<Result> = []
    for (const contender of [...holdfast, ...rivals]) {
      results.push(await Effect.runPromise(Effect.scoped(revocations(contender, size))))
    }
    const heard = holdfast.filter(({ hears }) => hears !== false)
    const idle = await Effect.runPromise(Effect.forEach(
      heard,
      (contender) => Effect.map(Effect.scoped(idling(contender, size)), (operations) => ({ contender, operations })),
      { concurrency: "unbounded" }
    ))
    const paused = [...heard, ...rivals.filter(({ store }) => store.kind === "redis")]
    const pauses: Array<Pause> = []
    for (const contender of paused) pauses.push(await Effect.runPromise(Effect.scoped(pausing(contender))))
    print(size, results, idle, pauses)
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

const contendersIn = async (root: string, onlyFiles: boolean) => {
  const { mysql, postgres, redis } = onlyFiles
    ? { mysql: undefined, postgres: undefined, redis: undefined }
    : await databases()
  const place = `holdfast_bench_${process.pid}_${Date.now()}`
  const holdfast: Array<Contender> = []
  const add = (name: string, settings: (place: string) => StoreSettings, hasNotices: boolean) => {
    holdfast.push({ name: `Holdfast, ${name}`, store: settings(place) })
    if (!hasNotices) return
    holdfast.push({ name: `Holdfast, ${name}, without notices`, store: settings(`${place}_silent`), hears: false })
  }
  add("files", (place) => ({ kind: "file", directory: join(root, place) }), true)
  if (postgres !== undefined) add("PostgreSQL", (table) => ({ kind: "postgres", url: postgres, table }), true)
  if (mysql !== undefined) add("MariaDB", (table) => ({ kind: "mysql", url: mysql, table }), false)
  if (!onlyFiles && await hasSqlite()) {
    add("SQLite", (place) => ({ kind: "sqlite", filename: join(root, `${place}.db`) }), false)
  }
  if (redis !== undefined) add("Redis", (prefix) => ({ kind: "redis", url: redis, prefix }), true)
  const program = new URL("./fleet/rival.ts", import.meta.url)
  const rivals: ReadonlyArray<Contender> = [
    ...redis === undefined
      ? []
      : [{ name: "SET NX PX, Redis", store: { kind: "redis", url: redis, prefix: `${place}_lock` }, program } as const],
    { name: "a session in each process", store: { kind: "file", directory: root }, program }
  ]
  return { holdfast, rivals }
}

type Measured<A> = Effect.Effect<A, ProcessGone, Scope.Scope>

/** Starts processes, which are then all signed in. */
const fleetOf = (
  { hears, program, store }: Contender,
  server: RotatingServer,
  processes: number,
  lease: number
): Measured<ReadonlyArray<FleetProcess>> =>
  Effect.gen(function*() {
    const settings = { key: "api", lease, store, upstream: server.url, ...hears === undefined ? {} : { hears } }
    const all = yield* Effect.replicateEffect(fleetProcess(settings, program), processes, { concurrency: 2 })
    // Without Holdfast the token is a setting, and any process may sign in first.
    if (program !== undefined) yield* Effect.promise(() => signIn(server))
    for (const one of all) yield* one.ask("refused", 1)
    return all
  })

const signIn = async ({ url }: RotatingServer): Promise<void> => {
  const body = new URLSearchParams({ grant_type: "password" })
  await (await fetch(`${url}/token`, { method: "POST", body })).arrayBuffer()
}

const revocations = (contender: Contender, { callers, processes, revocations }: Size): Measured<Result> =>
  Effect.gen(function*() {
    const server = yield* rotatingServer()
    const all = yield* fleetOf(contender, server, processes, lease.usual)
    const counted = contender.program === undefined
      ? Effect.map(Effect.forEach(all, ({ ask }) => ask("operations")), (counts) => counts.reduce((a, b) => a + b, 0))
      : Effect.succeed(undefined)
    const revoke = Effect.gen(function*() {
      yield* server.revoke
      const since = performance.now()
      const served = yield* Effect.forEach(all, ({ ask }) => ask("refused", callers), { concurrency: "unbounded" })
      return { millis: performance.now() - since, served: served.reduce((a, b) => a + b, 0) }
    })
    // The first revocation runs code that is not yet compiled, and without Holdfast it logs everybody out.
    const first = yield* revoke
    const before = yield* counted
    const rounds = yield* Effect.replicateEffect(revoke, revocations)
    const after = yield* counted
    return {
      contender,
      millis: summarize(rounds.map(({ millis }) => millis)),
      served: [first, ...rounds].reduce((sum, { served }) => sum + served, 0),
      asked: (revocations + 1) * processes * callers,
      renewals: server.state.calls.filter((call) => call.startsWith("renew")).length,
      reused: server.state.reused,
      operations: before === undefined ? undefined : (after! - before) / revocations
    }
  })

/** The calls of the store while two processes only serve their callers. */
const idling = (contender: Contender, { idleMillis }: Size): Measured<number> =>
  Effect.gen(function*() {
    const store = elsewhere(contender.store, "idle")
    const all = yield* fleetOf({ ...contender, store }, yield* rotatingServer(), 2, lease.usual)
    const count = Effect.map(Effect.forEach(all, ({ ask }) => ask("operations")), ([a, b]) => a! + b!)
    const before = yield* count
    yield* Effect.forEach([1, 2, 3], () => Effect.zipRight(Effect.sleep(idleMillis / 3), all[0]!.ask("refused", 10)))
    return (yield* count) - before
  })

interface Idle {
  readonly contender: Contender
  /** Calls of the store, by both processes. */
  readonly operations: number
}

interface Pause {
  readonly contender: Contender
  readonly renewals: number
  readonly reused: number
}

/** The holder is suspended before it presents the token, for twice its lease; another process renews meanwhile. */
const pausing = (contender: Contender): Measured<Pause> =>
  Effect.gen(function*() {
    const server = yield* rotatingServer()
    const store = elsewhere(contender.store, "paused")
    const [paused, other] = (yield* fleetOf({ ...contender, store }, server, 2, lease.short)) as [
      FleetProcess,
      FleetProcess
    ]
    yield* server.revoke
    yield* paused.ask("halt", "taken", "stop")
    const waking = yield* Effect.fork(paused.ask("refused", 1))
    yield* paused.reached("taken")
    yield* Effect.sleep(2 * lease.short)
    yield* other.ask("refused", 1)
    yield* paused.signal("SIGCONT")
    yield* Fiber.join(waking)
    return {
      contender,
      renewals: server.state.calls.filter((call) => call.startsWith("renew")).length,
      reused: server.state.reused
    }
  })

const elsewhere = (store: StoreSettings, name: string): StoreSettings => {
  switch (store.kind) {
    case "file":
      return { ...store, directory: join(store.directory, name) }
    case "sqlite":
      return { ...store, filename: `${store.filename}_${name}` }
    case "redis":
      return { ...store, prefix: `${store.prefix}_${name}` }
    default:
      return { ...store, table: `${store.table}_${name}` }
  }
}

const print = (
  { callers, idleMillis, processes, revocations }: Size,
  results: ReadonlyArray<Result>,
  idle: ReadonlyArray<Idle>,
  pauses: ReadonlyArray<Pause>
): void => {
  const lock = results.find(({ contender: { program, store } }) => program !== undefined && store.kind === "redis")
  printTable(
    `F1: ${processes} processes with ${callers} callers each, ${revocations} revocations (median and quartiles)`,
    [
      "fleet",
      "ms to the last served",
      "to SET NX PX",
      "callers served",
      "renewals a revocation",
      "reuse",
      "store calls"
    ],
    results.map(({ asked, contender, millis, operations, renewals, reused, served }) => {
      const isOut = served < asked
      return [
        contender.name,
        isOut ? "logged out" : spread(millis, 0),
        isOut || lock === undefined ? "" : (millis.median / lock.millis.median).toFixed(1),
        `${Math.round(100 * served / asked)} %`,
        isOut ? "" : (renewals / (revocations + 1)).toFixed(1),
        String(reused),
        operations?.toFixed(0) ?? ""
      ]
    })
  )
  printTable(
    `F9: two processes serve their callers for ${idleMillis / 1000} s, and nothing else happens`,
    ["fleet", "store calls"],
    idle.map(({ contender, operations }) => [contender.name, String(operations)])
  )
  printTable(
    `F4: the holder stands still for two leases before it presents the token`,
    ["fleet", "presented", "reuse"],
    pauses.map(({ contender, renewals, reused }) => [contender.name, String(renewals), String(reused)])
  )
  const own = results.filter(({ contender: { program } }) => program === undefined)
  console.log("\nTargets for Holdfast\n")
  printTarget(
    "everybody served, one renewal a revocation, no reuse",
    own.every(({ asked, renewals, reused, served }) =>
      served === asked && renewals === revocations + 1 && reused === 0
    ),
    `${own.length} fleets`
  )
  printTarget(
    `F9: no call of the store while nothing happens for ${idleMillis / 1000} s`,
    idle.every(({ operations }) => operations === 0),
    `${idle.length} fleets`
  )
  printTarget(
    "F4: a holder that stood still presents nothing",
    pauses.every(({ contender: { program }, reused }) => program !== undefined || reused === 0),
    `${pauses.length} fleets`
  )
}
