/** The display during the storm: a bar and counters on a terminal, otherwise a line each second. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"

export type Counters = Readonly<Record<string, number>>

/** Shows `counters` until the scope closes. */
export const show = <E, R>(
  seconds: number,
  counters: Effect.Effect<Counters, E, R>
): Effect.Effect<void, never, R | Scope.Scope> =>
  Effect.gen(function*() {
    const { stdout } = process
    const startedAt = yield* Clock.currentTimeMillis
    const draw = Effect.gen(function*() {
      const now = yield* counters
      const elapsed = ((yield* Clock.currentTimeMillis) - startedAt) / 1000
      const figures = Object.entries(now).map(([name, count]) => `${name} ${count}`)
      const time = `${elapsed.toFixed(1)}/${seconds} s`
      stdout.write(
        stdout.isTTY
          ? `\r${fitted(bar(elapsed / seconds), [time, ...figures], stdout.columns || 80)}${eraseToEnd}`
          : `${elapsed.toFixed(0).padStart(String(seconds).length)} s  ${figures.join("  ")}\n`
      )
    })
    // A counterparty that is lost ends the storm, and is reported there.
    yield* draw.pipe(
      Effect.repeat(Schedule.spaced(stdout.isTTY ? "100 millis" : "1 second")),
      Effect.ignore,
      Effect.forkScoped
    )
    if (stdout.isTTY) yield* Effect.addFinalizer(() => Effect.sync(() => stdout.write(`\r${eraseToEnd}`)))
  })

const eraseToEnd = "\u001b[K"

const bar = (done: number): string => {
  const width = 16
  const full = Math.round(Math.min(1, done) * width)
  return "█".repeat(full) + "░".repeat(width - full)
}

/** How many of the figures fit on the line. */
const fitted = (bar: string, figures: ReadonlyArray<string>, columns: number): string => {
  let line = bar
  for (const figure of figures) {
    if (line.length + 2 + figure.length >= columns) break
    line += `  ${figure}`
  }
  return line
}
