/**
 * Counterparties: servers in their own processes. Each is forked in a scope, and has ended when the scope has closed.
 */
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import { type ChildProcess, fork as forkProcess } from "node:child_process"
import { fileURLToPath } from "node:url"
import type { Answer, Question, Questions } from "./answering.js"
import * as Load from "./load.js"

export interface Counterparty<Q extends Questions> {
  readonly ask: <Name extends keyof Q & string>(
    name: Name,
    ...input: Parameters<Q[Name]>
  ) => Effect.Effect<Awaited<ReturnType<Q[Name]>>, CounterpartyLost>
  readonly signal: (signal: "SIGSTOP" | "SIGCONT") => Effect.Effect<void>
}

export class CounterpartyLost extends Data.TaggedError("CounterpartyLost")<{
  readonly counterparty: string
  readonly reason: string
  /** The counterparty may be running, but did not answer in time. */
  readonly isSilent?: boolean
}> {
  override get message(): string {
    return `the ${this.counterparty} ${this.reason}`
  }
}

/** The counterparties of one storm. */
export interface Counterparties {
  /** `module` names a file that ends in `answerWith`. */
  readonly fork: <Q extends Questions>(name: string, module: URL) => Effect.Effect<Counterparty<Q>, never, Scope.Scope>
  /** Fails when a counterparty ends without being asked to. */
  readonly lost: Effect.Effect<never, CounterpartyLost>
  /** The loads of this process and of all running counterparties. */
  readonly load: Effect.Effect<Load.Load>
  readonly count: Effect.Effect<{ readonly started: number; readonly running: number }>
}

export const make: Effect.Effect<Counterparties> = Effect.gen(function*() {
  const lost = yield* Deferred.make<never, CounterpartyLost>()
  const children: Array<ChildProcess> = []
  const loads: Array<Effect.Effect<Load.Load, CounterpartyLost>> = [Effect.sync(Load.load)]
  // For an end without time to close the scopes. If there is no time for this either, the closed channel shows the
  // counterparty.
  process.on("exit", () => children.filter(isRunning).forEach((child) => child.kill("SIGKILL")))

  return {
    fork: (name, module) =>
      Effect.gen(function*() {
        const child = yield* Effect.acquireRelease(
          // The arguments of this process (`--import tsx`) are passed on, since the module may be TypeScript.
          Effect.sync(() => forkProcess(fileURLToPath(module), { stdio: ["ignore", "ignore", "inherit", "ipc"] })),
          end
        )
        children.push(child)
        const own = counterparty<any>(name, child, (error) => Deferred.unsafeDone(lost, Exit.fail(error)))
        loads.push(Effect.suspend(() => isRunning(child) ? own.ask("load") : Effect.succeed(nothing)))
        return own
      }),
    lost: Deferred.await(lost),
    load: Effect.map(
      Effect.forEach(loads, Effect.orElseSucceed(() => nothing), { concurrency: "unbounded" }),
      Load.sum
    ),
    count: Effect.sync(() => ({ started: children.length, running: children.filter(isRunning).length }))
  }
})

const nothing = Load.sum([])

/**
 * A question that has waited this long will not be answered. Starting a process on a busy machine takes the longest.
 */
const patience = "60 seconds"

const counterparty = <Q extends Questions>(
  name: string,
  child: ChildProcess,
  onLost: (error: CounterpartyLost) => void
): Counterparty<Q> => {
  const asked = new Map<number, (answer: Effect.Effect<any, CounterpartyLost>) => void>()
  let questions = 0

  const lose = (reason: string) => {
    const error = new CounterpartyLost({ counterparty: name, reason })
    for (const resume of asked.values()) resume(error)
    onLost(error)
  }
  child.on("error", (error) => lose(`has failed: ${error.message}`))
  child.on("exit", (code, signal) => lose(`has ended with ${signal ?? code}`))
  child.on("message", (answer: Answer) =>
    asked.get(answer.id)?.(
      "refused" in answer
        ? new CounterpartyLost({ counterparty: name, reason: `refused: ${answer.refused}` })
        : Effect.succeed(answer.value)
    ))

  return {
    ask: (question, input?: unknown) =>
      Effect.suspend(() => {
        const id = questions++
        return Effect.async<any, CounterpartyLost>((resume) => {
          asked.set(id, resume)
          child.send({ id, name: question, input } satisfies Question, (error) => {
            if (error !== null) resume(new CounterpartyLost({ counterparty: name, reason: "cannot be asked" }))
          })
        }).pipe(
          Effect.timeoutFail({
            duration: patience,
            onTimeout: () =>
              new CounterpartyLost({ counterparty: name, reason: `did not answer "${question}"`, isSilent: true })
          }),
          Effect.ensuring(Effect.sync(() => asked.delete(id)))
        )
      }),
    signal: (signal) => Effect.sync(() => child.kill(signal))
  }
}

const isRunning = (child: ChildProcess): boolean =>
  child.pid !== undefined && child.exitCode === null && child.signalCode === null

/** Kills it immediately: a counterparty has nothing to clean up. */
const end = (child: ChildProcess): Effect.Effect<void> =>
  Effect.async<void>((resume) => {
    child.removeAllListeners("exit")
    if (!isRunning(child)) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    child.kill("SIGKILL")
  }).pipe(
    Effect.timeoutOption("30 seconds"),
    Effect.asVoid
  )
