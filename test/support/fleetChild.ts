/** One process of a fleet, bundled and started by `fleet.ts`. */
import * as SessionStore from "effect-holdfast/SessionStore"
import * as Effect from "effect/Effect"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Option from "effect/Option"
import { storeLayer, type StoreSettings } from "./stores.js"

export interface Settings {
  readonly store: StoreSettings
  readonly key: string
}

const settings = JSON.parse(process.argv[2]!) as Settings
const runtime = ManagedRuntime.make(storeLayer(settings.store))

const questions = {
  /** Raises a number in the row by compare-and-set until it is as high as that. Gives how often this process did. */
  contend: (target: number): Promise<number> =>
    runtime.runPromise(Effect.gen(function*() {
      const store = yield* SessionStore.SessionStore
      let won = 0
      for (;;) {
        const { row } = yield* store.read(settings.key)
        const { failures, revision } = Option.getOrThrow(row)
        if (failures >= target) return won
        const next = { ...Option.getOrThrow(row), revision: revision + 1, failures: failures + 1 }
        if (yield* store.compareAndSet(settings.key, revision, next)) won++
      }
    }))
}

export type Questions = typeof questions

interface Question {
  readonly id: number
  readonly name: keyof Questions
  readonly input: Parameters<Questions[keyof Questions]>
}

process.on("message", ({ id, input, name }: Question) => {
  Promise.resolve((questions[name] as (...input: ReadonlyArray<unknown>) => unknown)(...input)).then(
    (value) => process.send!({ id, value }),
    (error: unknown) => process.send!({ id, defect: String(error) })
  )
})
process.on("disconnect", () => process.exit())
