/**
 * The report of a storm, `--report`: one page without external resources, with a timeline in pictures and the ledger.
 */
import * as Inspector from "effect-holdfast/Inspector"
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { writeFile } from "node:fs/promises"
import type { Counters } from "./display.js"
import type { Judged, Outcome } from "./ledger.js"
import * as Options from "./options.js"

interface Sample {
  readonly at: number
  readonly counters: Counters
}

/** The events of a storm in their order. Times are epoch milliseconds. */
export interface Timeline {
  readonly startedAt: number
  readonly samples: ReadonlyArray<Sample>
  readonly events: ReadonlyArray<Inspector.InspectorEvent>
  readonly outages: ReadonlyArray<{ readonly from: number; readonly until: number }>
}

/** Samples the counters, and keeps the events of the Inspector, until the scope closes. */
export const record = <E, R>(
  counters: Effect.Effect<Counters, E, R>
): Effect.Effect<
  Timeline & { readonly outage: (millis: number) => Effect.Effect<void> },
  never,
  Inspector.Inspector | R | Scope.Scope
> =>
  Effect.gen(function*() {
    const { snapshot } = yield* Inspector.Inspector
    const startedAt = yield* Clock.currentTimeMillis
    const samples: Array<Sample> = []
    const events: Array<Inspector.InspectorEvent> = []
    const outages: Array<Timeline["outages"][number]> = []
    const keepEvents = Effect.map(Effect.suspend(() => snapshot((events.at(-1)?.number ?? -1) + 1)), (taken) =>
      void events.push(...taken.events))
    const sample = Effect.gen(function*() {
      yield* keepEvents
      samples.push({ counters: yield* counters, at: yield* Clock.currentTimeMillis })
    })
    // A counterparty that is lost ends the storm, and is reported there.
    yield* Effect.addFinalizer(() =>
      Effect.ignore(sample)
    )
    yield* Effect.forkScoped(Effect.ignore(Effect.repeat(sample, Schedule.spaced("250 millis"))))
    return {
      startedAt,
      samples,
      events,
      outages,
      outage: (millis) =>
        Effect.map(Clock.currentTimeMillis, (from) => void outages.push({ from, until: from + millis }))
    }
  })

// --- pictures ----------------------------------------------------------------

const width = 900
const height = 44

interface Lane {
  readonly title: string
  readonly what: string
  readonly bars: ReadonlyArray<Bar>
}

interface Bar {
  readonly from: number
  readonly until: number
  readonly value: number
  readonly isBad?: boolean
}

/** By how much counters have grown between one sample and the next. */
const grown = (samples: ReadonlyArray<Sample>, names: ReadonlyArray<string>): ReadonlyArray<Bar> => {
  const sum = ({ counters }: Sample) => names.reduce((sum, name) => sum + (counters[name] ?? 0), 0)
  return samples.slice(1).map((sample, i) => ({
    from: samples[i]!.at,
    until: sample.at,
    value: Math.max(0, sum(sample) - sum(samples[i]!))
  }))
}

const refreshesIn = (events: Timeline["events"]): ReadonlyArray<Bar> =>
  events.filter(({ event }) => event === "Refreshed").map(({ at, detail = "", millis = 0 }) => ({
    from: at - millis,
    until: at,
    value: 1,
    isBad: detail !== "success" && detail !== "late"
  }))

const fleetCounter = "fleet's renewals"

const lanesOf = ({ events, outages, samples }: Timeline): ReadonlyArray<Lane> => [
  {
    title: "Outages",
    what: "no server could be reached",
    bars: outages.map((one) => ({ ...one, value: 1, isBad: true }))
  },
  {
    title: "Faults",
    what: "resets, stalls and delays of the proxy",
    bars: grown(samples, ["resets", "stalls", "delays"])
  },
  { title: "Requests", what: "answered in the end", bars: grown(samples, ["served"]) },
  { title: "Refreshes", what: "of the session that all callers share; red: failed", bars: refreshesIn(events) },
  { title: "Reconnects", what: "connections of sockets that were opened", bars: grown(samples, ["opened"]) },
  { title: "Commits", what: "transfers that were done", bars: grown(samples, ["transfers"]) },
  {
    title: "Rollbacks",
    what: "transfers that died, failed or were aborted midway",
    bars: grown(samples, ["died", "failed midway", "aborted"])
  },
  { title: "Handshakes", what: "TLS connections that were resumed by a ticket", bars: grown(samples, ["resumed"]) },
  ...samples.some(({ counters }) => fleetCounter in counters)
    ? [{ title: "Fleet", what: "renewals by one process for all", bars: grown(samples, [fleetCounter]) }]
    : []
]

const escaped = (text: unknown): string =>
  String(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

const picture = ({ bars, title, what }: Lane, from: number, until: number, outages: Timeline["outages"]): string => {
  const x = (at: number) => Math.max(0, Math.min(width, (at - from) / Math.max(1, until - from) * width))
  // A busy machine takes samples at uneven times, and the height must not depend on the width.
  const rate = (bar: Bar) => bar.value / Math.max(1, bar.until - bar.from)
  const isCounted = bars.some(({ value }) => value > 1)
  const heightOf = (bar: Bar) => isCounted ? rate(bar) : bar.value
  const most = Math.max(0, ...bars.map(heightOf))
  const rect = (bar: Bar, top: number, tall: number, kind: string) =>
    `<rect class="${kind}" x="${x(bar.from).toFixed(1)}" y="${top.toFixed(1)}" width="${
      Math.max(2, x(bar.until) - x(bar.from) - 1).toFixed(1)
    }" height="${tall.toFixed(1)}"/>`
  const shades = outages.map((outage) => rect({ ...outage, value: 1 }, 0, height, "out"))
  const shown = bars.filter(({ value }) => value > 0).map((bar) => {
    const tall = Math.max(3, heightOf(bar) / most * (height - 6))
    return rect(bar, height - tall, tall, bar.isBad === true ? "bad" : "good")
  })
  const sum = bars.reduce((sum, { value }) => sum + value, 0)
  return `<figure><figcaption><b>${escaped(title)}</b> ${escaped(what)} <span>${sum}</span></figcaption>` +
    `<svg viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" role="img" aria-label="${
      escaped(`${title}: ${sum}`)
    }">${shades.join("")}<line x1="0" x2="${width}" y1="${height}" y2="${height}"/>${shown.join("")}</svg></figure>`
}

// --- the page ----------------------------------------------------------------

const style = `
:root{--paper:#faf9f6;--card:#fff;--ink:#22282d;--soft:#667079;--line:#e7e4dd;
--good:#12796f;--bad:#b3372b;
--out:#f6dedb}
@media(prefers-color-scheme:dark){:root{--paper:#13171a;--card:#1a1f23;--ink:#e7e5e0;--soft:#9ba5ad;--line:#2a3137;
--good:#5fc5b5;--bad:#f0897d;--out:#4a2623}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;
font-variant-numeric:tabular-nums}main{max-width:980px;margin:0 auto;padding:28px 20px 48px}h1{font-size:24px;margin:0}
h2{font-size:16px;margin:0 0 12px}p{color:var(--soft);margin:4px 0 20px}section{background:var(--card);
border:1px solid var(--line);border-radius:14px;padding:18px 20px;margin-bottom:18px}figure{margin:0 0 12px}
figcaption{font-size:13px;color:var(--soft);display:flex;gap:8px}figcaption b{color:var(--ink)}
figcaption span{margin-left:auto}svg{display:block;width:100%;height:44px}
line{stroke:var(--line)}
.good{fill:var(--good)}
.bad{fill:var(--bad)}.out{fill:var(--out)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{text-align:left;padding:6px 14px 6px 0;vertical-align:top}
tr+tr td{border-top:1px solid var(--line)}
th{color:var(--soft);font-weight:500}td:first-child{white-space:nowrap}
@media(max-width:600px){thead{display:none}td{display:block;padding-right:0}tr+tr td{border:0}
tr+tr td:first-child{border-top:1px solid var(--line)}td+td{padding-top:0}}
.held{color:var(--good)}.broken{color:var(--bad)}
code{font-size:13px}.ends{display:flex;justify-content:space-between;font-size:12px;color:var(--soft)}
`

const ledgerOf = (ledger: ReadonlyArray<Judged>): string =>
  ledger.map(({ entries, part }) =>
    `<section><h2>${
      escaped(part)
    }</h2><div class="scroll" tabindex="0"><table><thead><tr><th scope="col">Outcome</th>` +
    `<th scope="col">Promise</th><th scope="col">What happened</th></tr></thead><tbody>${
      entries.map(({ happened, outcome, promise }) =>
        `<tr><td class="${outcome === "held" ? "held" : "broken"}">${escaped(outcome)}</td><td>${
          escaped(promise)
        }</td><td>${escaped(happened)}</td></tr>`
      ).join("")
    }</tbody></table></div></section>`
  ).join("\n")

export const toHtml = (
  options: Options.Options,
  timeline: Timeline,
  ledger: ReadonlyArray<Judged>,
  outcome: Outcome
): string => {
  const { callers, seconds, seed } = options
  const { events, outages, samples, startedAt } = timeline
  const until = Math.max(startedAt + 1, samples.at(-1)?.at ?? 0, events.at(-1)?.at ?? 0)
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Storm ${seed}</title><style>${style}</style></head><body><main>
<h1>The storm: ${escaped(outcome)}</h1>
<p>Seed ${seed}, ${callers} callers, ${seconds} s. Again: <code>npm start -- ${Options.toArgs(options)}</code></p>
<section><h2>Timeline</h2>
${lanesOf(timeline).map((lane) => picture(lane, startedAt, until, outages)).join("\n")}
<div class="ends"><span>0 s</span><span>${((until - startedAt) / 1000).toFixed(1)} s</span></div></section>
${ledgerOf(ledger)}
</main></body></html>
`
}

export class ReportNotWritten extends Data.TaggedError("ReportNotWritten")<{
  readonly path: string
  readonly cause: unknown
}> {
  override get message(): string {
    return `the report could not be written to ${this.path}: ${String(this.cause)}`
  }
}

export const write = (path: string, html: string): Effect.Effect<void, ReportNotWritten> =>
  Effect.tryPromise({
    try: () => writeFile(path, html),
    catch: (cause) => new ReportNotWritten({ path, cause })
  })
