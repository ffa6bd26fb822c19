/**
 * Observes a run's operations by a supervisor, since Effect does not report them to the scheduler. A supervisor slows a
 * run down, so only a few runs have one.
 */
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Supervisor from "effect/Supervisor"
import type { Setting } from "./run.js"

/** The setting with a runtime that calls `begins` with each operation before the scheduler is asked about it. */
export const observed = (setting: Setting, begins: (operation: unknown) => void): Setting => ({
  ...setting,
  runtime: Runtime.make({
    context: setting.runtime.context,
    runtimeFlags: RuntimeFlags.enable(setting.runtime.runtimeFlags, RuntimeFlags.OpSupervision),
    fiberRefs: FiberRefs.updateAs(setting.runtime.fiberRefs, {
      fiberId: FiberId.unsafeMake(),
      fiberRef: FiberRef.currentSupervisor,
      value: new Observer(begins)
    })
  })
})

class Observer extends Supervisor.AbstractSupervisor<void> {
  readonly value = Effect.void
  readonly begins: (operation: unknown) => void

  constructor(begins: (operation: unknown) => void) {
    super()
    this.begins = begins
  }

  override onEffect(_fiber: unknown, effect: Effect.Effect<unknown, unknown, unknown>): void {
    this.begins(effect)
  }
}
