/** Processes that share a store. The test can ask, kill and stop them. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import type { Questions, Settings } from "./fleetChild.js"
import { bundled } from "./programs.js"

export interface FleetProcess {
  readonly ask: <Name extends keyof Questions>(
    name: Name,
    ...input: Parameters<Questions[Name]>
  ) => Effect.Effect<Awaited<ReturnType<Questions[Name]>>, ProcessGone>
  /** `kill -9`; done when the process is gone. */
  readonly kill: Effect.Effect<void>
  readonly signal: (signal: "SIGSTOP" | "SIGCONT") => Effect.Effect<void>
  /** Done when the process has reported it. */
  readonly reached: (what: string) => Effect.Effect<void, ProcessGone>
}

export class ProcessGone {
  readonly _tag = "ProcessGone"
}

/** `program` answers the same questions as `fleetChild.ts`, or some of them. */
export const fleetProcess = (
  settings: Settings,
  program = new URL("./fleetChild.ts", import.meta.url)
): Effect.Effect<FleetProcess, never, Scope.Scope> =>
  Effect.gen(function*() {
    const script = yield* Effect.promise(() => bundled(program))
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        fork(script, [JSON.stringify(settings)], { execArgv: [], stdio: ["ignore", "inherit", "inherit", "ipc"] })
      ),
      kill
    )
    child.on("error", () => {})
    let questions = 0
    const answers = new Map<number, (answer: Effect.Effect<any, ProcessGone>) => void>()
    const reached = new Set<string>()
    const listeners = new Set<() => void>()
    const change = () => listeners.forEach((listener) => listener())
    child.on("message", (message: { id?: number; value?: unknown; defect?: string; reached?: string }) => {
      if (message.reached !== undefined) {
        reached.add(message.reached)
        return change()
      }
      answers.get(message.id!)?.(
        message.defect === undefined ? Effect.succeed(message.value) : Effect.die(message.defect)
      )
      answers.delete(message.id!)
    })
    child.on("exit", () => {
      for (const answer of answers.values()) answer(Effect.fail(new ProcessGone()))
      answers.clear()
      change()
    })
    return {
      ask: (name, ...input) =>
        Effect.async((resume) => {
          if (!isRunning(child)) return resume(Effect.fail(new ProcessGone()))
          const id = questions++
          answers.set(id, resume)
          child.send({ id, name, input })
        }),
      kill: kill(child),
      signal: (signal) => Effect.sync(() => child.kill(signal)),
      reached: (what) =>
        Effect.async((resume) => {
          const look = () => {
            if (reached.has(what)) resume(Effect.void)
            else if (isRunning(child)) return
            else resume(Effect.fail(new ProcessGone()))
            listeners.delete(look)
          }
          listeners.add(look)
          look()
        })
    }
  })

const isRunning = (child: ChildProcess): boolean => child.exitCode === null && child.signalCode === null

const kill = (child: ChildProcess): Effect.Effect<void> =>
  Effect.promise(async () => {
    if (!isRunning(child)) return
    const exit = once(child, "exit")
    child.kill("SIGKILL")
    await exit
  })
