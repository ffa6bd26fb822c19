/**
 * The half of a counterparty that runs in its own process: it answers the storm's questions, and ends when the storm
 * ends, for whatever reason. The other half is `counterparty.ts`.
 */
import { load } from "./load.js"

/** The questions to a counterparty. The arguments and answers cross processes as JSON. */
export type Questions = Readonly<Record<string, (input: never) => unknown>>

export interface Question {
  readonly id: number
  readonly name: string
  readonly input: unknown
}

export type Answer =
  | { readonly id: number; readonly value?: unknown }
  | { readonly id: number; readonly refused: string }

/** The questions to each counterparty. */
export const standard = { load }

export const answerWith = <Q extends Questions>(own: Q): Q => {
  const questions: Questions = { ...standard, ...own }
  process.on("message", async ({ id, input, name }: Question) => {
    const answer: Answer = await Promise.resolve()
      .then(() => questions[name]!(input as never))
      .then((value) => ({ id, value }), (error: unknown) => ({ id, refused: String(error) }))
    if (process.connected) process.send!(answer)
  })
  process.on("disconnect", () => process.exit(0))
  // Ctrl-C reaches every process of the terminal's group, but the storm decides when this process ends.
  process.on("SIGINT", () => {})
  return own
}
