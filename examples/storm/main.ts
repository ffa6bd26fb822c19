/**
 * The storm: starts real counterparties in their own processes, drives a client through an outage, and keeps a ledger
 * of promises. `npm start -- --help` lists the options.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Random from "effect/Random"
import * as BalancesPart from "./balances/part.js"
import { chance } from "./chance.js"
import * as Counterparties from "./counterparty.js"
import * as Display from "./display.js"
import * as FeedPart from "./feed/part.js"
import * as FleetPart from "./fleet/part.js"
import * as GatewayPart from "./gateway/part.js"
import * as Ledger from "./ledger.js"
import * as Load from "./load.js"
import * as Options from "./options.js"
import type { Proxy } from "./proxy.js"
import * as Report from "./report.js"
import * as SessionPart from "./session/part.js"
import * as Servers from "./session/servers.js"
import * as TicketsPart from "./tls/part.js"
import * as View from "./view.js"

/** Gives the exit code. */
const storm = Effect.fnUntraced(function*(options: Options.Options) {
  const { callers, json, report, seconds, seed } = options
  if (!json) console.log(`storm: seed ${seed}, ${callers} callers, ${seconds} s`)

  const counterparties = yield* Counterparties.make
  const { faults, load, sections, timeline } = yield* Effect.raceFirst(
    Effect.scoped(blow(options, counterparties)),
    counterparties.lost
  )
  const { running, started } = yield* counterparties.count
  const isOverload = Load.isOverload(load)
  const ledger = Ledger.judge([...sections, {
    part: "storm",
    entries: [{
      promise: "nothing is left running",
      held: running === 0,
      happened: `${started} processes started, ${running} still running`
    }],
    counts: { faults, load }
  }], isOverload)

  const outcome = Ledger.outcome(ledger)
  console.log(
    json ? JSON.stringify({ seed, seconds, callers, held: outcome === "held", outcome, ledger }) : [
      "",
      Ledger.toTable(ledger),
      "",
      `The proxy passed ${faults.connections} connections on, with ${faults.resets} resets, ${faults.stalls} stalls, ` +
      `${faults.delays} delays and ${faults.outages} outage.`,
      ...isOverload
        ? [`The machine was overloaded: of the processor time that the storm needed, it gave ${percent(load)} %.`]
        : [],
      `${verdicts[outcome].text} To repeat the same faults: ` +
      `npm start -- ${Options.toArgs(options)}`
    ].join("\n")
  )
  if (report !== undefined) {
    yield* Report.write(report, Report.toHtml(options, timeline, ledger, outcome))
    if (!json) console.log(`The report is in ${report}.`)
  }
  return verdicts[outcome].exitCode
})

const verdicts: Readonly<Record<Ledger.Outcome, { readonly exitCode: number; readonly text: string }>> = {
  held: { exitCode: 0, text: "Every promise was kept." },
  BROKEN: { exitCode: 1, text: "A promise was BROKEN." },
  "not reached": { exitCode: 3, text: "No promise was broken, but some were not reached." }
}

const percent = ({ given, wanted }: Load.Load): number => Math.round(100 * given / wanted)

/** All parts meet their counterparties through one proxy. */
const blow = Effect.fnUntraced(function*(options: Options.Options, counterparties: Counterparties.Counterparties) {
  const proxy = yield* counterparties.fork<Proxy>("proxy", new URL("./proxy.ts", import.meta.url))

  // Three parts share servers and a client: callers of an API share one session, pay from accounts, and use TLS with
  // tickets. The other parts have their own.
  const [feed, gateway, servers] = yield* Effect.all([
    FeedPart.make(options, counterparties, proxy),
    GatewayPart.make(options, counterparties, proxy),
    Servers.make(options, counterparties)
  ], { concurrency: "unbounded" })
  const tickets = yield* TicketsPart.make(options, counterparties, proxy, servers)
  const balances = BalancesPart.make(options, servers)
  const session = yield* SessionPart.make(options, proxy, servers, { balances, tickets })
  const fleet = options.processes === 0
    ? []
    : [yield* FleetPart.make(options, counterparties, proxy, servers.certificates)]
  const parts = [session, balances, tickets, feed, gateway, ...fleet]

  const counters = Effect.gen(function*() {
    const { delays, resets, stalls } = yield* proxy.ask("report")
    const ofParts = yield* Effect.all(parts.map((part) => part.counters))
    return Object.assign({}, ...ofParts, { resets, stalls, delays }) as Display.Counters
  })

  const timeline = yield* Effect.scoped(Effect.gen(function*() {
    const timeline = yield* Report.record(counters)
    yield* Effect.forkScoped(outage(options, proxy, timeline.outage))
    if (!options.json) yield* Display.show(options.seconds, counters)
    yield* Effect.all([
      Effect.provide(
        Effect.all([session.run, balances.run, tickets.run], { concurrency: "unbounded", discard: true }),
        session.layerClient
      ),
      feed.run,
      gateway.run,
      ...fleet.map(({ run }) => run)
    ], { concurrency: "unbounded", discard: true })
    return timeline
  }))
  const sections = yield* Effect.forEach(parts, ({ section }) => section)
  return { sections, faults: yield* proxy.ask("report"), load: yield* counterparties.load, timeline }
})

/** Once, at about half time, no server can be reached: for a second, or a tenth of a shorter storm. */
const outage = (
  { seconds, seed }: Options.Options,
  proxy: Counterparties.Counterparty<Proxy>,
  note: (millis: number) => Effect.Effect<void>
) => {
  const millis = Math.min(1000, seconds * 100)
  return Effect.delay(
    Effect.zipRight(note(millis), proxy.ask("goOut", millis)),
    chance(seed, "outage").between(300, 600) * seconds
  )
}

// --- the process -------------------------------------------------------------

const print = (stream: NodeJS.WriteStream, text: string, exitCode: number) =>
  Effect.sync(() => {
    stream.write(`${text}\n`)
    return exitCode
  })

const main: Effect.Effect<number> = Either.match(Options.parse(process.argv.slice(2)), {
  onLeft: (complaint) => print(process.stderr, complaint, 2),
  onRight: (options) => {
    if (options === "help") return print(process.stdout, Options.help, 0)
    // Every wait in the storm has its own bound. This bound is for a bug in one of those.
    setTimeout(() => {
      console.error("the storm does not end")
      process.exit(1)
    }, options.seconds * 1000 + 180_000).unref()
    if (options.view) View.open()
    return storm(options).pipe(
      Effect.provide(View.layer("the callers")),
      Effect.catchAll((error) =>
        print(
          process.stderr,
          error.message,
          error._tag === "ReportNotWritten"
            ? 2
            : verdicts["isSilent" in error && error.isSilent ? "not reached" : "BROKEN"].exitCode
        )
      ),
      Effect.withRandom(Random.make(options.seed)),
      // A session warns of each refresh that fails, and in a storm many do. The ledger judges them.
      Logger.withMinimumLogLevel(LogLevel.Error),
      // Standard output is for the ledger.
      Effect.provide(Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.stringLogger)))
    )
  }
})

let signalled: number | undefined

const onSignal = (exitCode: number) => () => {
  signalled ??= exitCode
  // `runMain` interrupts the storm. This takes a few milliseconds, or does not happen on a busy machine.
  setTimeout(() => process.exit(exitCode), 500).unref()
}
process.on("SIGINT", onSignal(130))
process.on("SIGTERM", onSignal(143))
// The reader of the output has gone, as with `npm start | head -1`.
process.stdout.on("error", () => process.exit(1))

NodeRuntime.runMain(main, {
  disableErrorReporting: true,
  teardown: (exit, onExit) => {
    if (signalled !== undefined) return onExit(signalled)
    if (Exit.isFailure(exit)) console.error(Cause.pretty(exit.cause))
    // With exit code 0 the process must end by itself: if it does not, there is a leak.
    setTimeout(() => process.exit(1), 10_000).unref()
    onExit(Exit.isSuccess(exit) ? Number(exit.value) : 1)
  }
})
