/** Describes a run in words: which fiber ran which operations, why it stopped, and which fibers wait for what. */
import * as FiberId from "effect/FiberId"
import { observed } from "./observe.js"
import type { Lane, Run, Setting, Strategy } from "./run.js"

/** The fields of Effect's primitives by which an operation can be described. */
interface Operation {
  readonly _op: string
  readonly effect_instruction_i0?: unknown
  readonly effect_instruction_i1?: unknown
}

interface Stretch {
  readonly lane: Lane
  readonly first: number
  last: number
  end: string | undefined
}

/** Watches one run. */
export class Narrator {
  private readonly stretches: Array<Stretch> = []
  private readonly latest = new Map<Lane, Operation>()
  private upcoming: Operation | undefined

  /** The setting with a runtime that reports each operation that it begins. */
  observing(setting: Setting): Setting {
    return observed(setting, (operation) => this.upcoming = operation as Operation)
  }

  /** The strategy, with its decisions recorded. */
  noting(strategy: Strategy): Strategy {
    return {
      seed: strategy.seed,
      atOperation: (run, lane) => {
        const before = run.departures.length
        const preemption = strategy.atOperation(run, lane)
        const stretch = this.stretchOf(run, lane)
        stretch.last = lane.operations
        if (this.upcoming !== undefined) this.latest.set(lane, this.upcoming)
        const event = run.departures.at(before)
        if (event !== undefined) {
          const what = event.kind === "interrupt"
            ? `${nameOf(event.to)} is interrupted`
            : "time passes to the next timer"
          stretch.end = `${what} before ${describe(this.upcoming)}`
        }
        if (preemption !== undefined) {
          stretch.end = `preempted${preemption.long ? ", for long," : ""} before ${describe(this.upcoming)}`
        }
        return preemption
      },
      atPick: (run, paused) => strategy.atPick(run, paused)
    }
  }

  private stretchOf(run: Run, lane: Lane): Stretch {
    const stretch = this.stretches.at(-1)
    if (stretch?.lane === lane && stretch.end === undefined) return stretch
    if (stretch !== undefined) stretch.end ??= this.pause(run, stretch.lane)
    const next: Stretch = { lane, first: lane.operations, last: lane.operations, end: undefined }
    this.stretches.push(next)
    return next
  }

  /** Why a fiber does not go on. */
  private pause(run: Run, lane: Lane): string {
    const exit = lane.fiber?.unsafePoll()
    if (exit) return `ends in ${exit._tag === "Success" ? "success" : "failure"}`
    const operation = this.latest.get(lane)
    if (operation?._op === "Yield") return "yields"
    if (operation?._op !== "Async") return "lets others go on"
    const awaited = FiberId.isFiberId(operation.effect_instruction_i1)
      ? [...FiberId.ids(operation.effect_instruction_i1)]
      : []
    const maker = run.lanes.find((other) => other.fiber !== undefined && awaited.includes(other.fiber.id().id))
    const what = maker === undefined
      ? "a callback (a semaphore, a timer, Effect.async)"
      : maker === lane
      ? "a Deferred that it made"
      : `${nameOf(maker.name)} (its end, or a Deferred that it made)`
    const next = continuationOf(lane.fiber)
    return `waits for ${what}${next === undefined ? "" : `, then ${next}`}`
  }

  /** The whole run, with one line for each stretch. */
  schedule(run: Run): string {
    const stretch = this.stretches.at(-1)
    if (stretch !== undefined) stretch.end ??= this.pause(run, stretch.lane)
    const lines = this.stretches.map(({ end, first, lane, last }) =>
      `  ${nameOf(lane.name).padEnd(14)} ${`${first}–${last}`.padEnd(9)} ${end}`
    )
    return lines.length <= mostLines ? lines.join("\n") : [
      ...lines.slice(0, mostLines / 2),
      `  … ${lines.length - mostLines} more`,
      ...lines.slice(-mostLines / 2)
    ].join("\n")
  }

  /** The fibers that have not ended, and what each waits for. */
  waits(run: Run): ReadonlyArray<string> {
    return run.lanes.flatMap((lane) => {
      if (lane.fiber === undefined || lane.fiber.unsafePoll() !== null) return []
      const span = lane.fiber.currentSpan
      return [
        `${nameOf(lane.name)}${span?._tag === "Span" ? ` in span "${span.name}"` : ""} ${this.pause(run, lane)}`
      ]
    })
  }
}

/** Names a fiber by its ancestors: `fiber 0.2.1` is the first child of the root's second child. */
const nameOf = (lane: string): string => lane === "*" ? "callbacks" : lane === "0" ? "the root, 0" : `fiber ${lane}`

/** For a longer run, only the beginning and the end are shown. */
const mostLines = 60

const describe = (operation: Operation | undefined): string => {
  if (operation === undefined) return "its first operation"
  const { _op, effect_instruction_i0, effect_instruction_i1 } = operation
  const code = [effect_instruction_i1, effect_instruction_i0].find((part) => typeof part === "function")
  return code === undefined ? _op : `${_op} ${sourceOf(code)}`
}

/** The code that the fiber will run with the value that it waits for. */
const continuationOf = (fiber: unknown): string | undefined => {
  const { _stack } = fiber as { readonly _stack?: ReadonlyArray<Operation> }
  const next = _stack?.findLast(({ _op }) => _op === "OnSuccess")?.effect_instruction_i1
  return next === undefined ? undefined : sourceOf(next)
}

const sourceOf = (code: unknown): string => {
  const source = String(code).replaceAll(/\s+/g, " ")
  return source.length > 70 ? `${source.slice(0, 69)}…` : source
}
