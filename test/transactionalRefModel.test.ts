import { assert, describe, it } from "@effect/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as fc from "fast-check"
import { amount } from "./support/form.js"

/** A step of a body: it changes refs, ends the body in some way, or runs a transaction inside. */
type Statement =
  | { readonly kind: "add"; readonly ref: number; readonly n: number }
  | { readonly kind: "pause" }
  | { readonly kind: "fail" | "die" | "interrupt" }
  | Transaction

interface Transaction {
  readonly kind: "transaction"
  readonly refs: ReadonlyArray<number>
  readonly body: ReadonlyArray<Statement>
  /** The body around it goes on, whatever its end. */
  readonly isRecovered: boolean
}

const ref = fc.integer({ min: 0, max: 2 })

const { transaction } = fc.letrec<{ readonly statement: Statement; readonly transaction: Transaction }>((tie) => ({
  statement: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    { arbitrary: fc.record({ kind: fc.constant("add" as const), ref, n: fc.integer({ min: 1, max: 9 }) }), weight: 6 },
    { arbitrary: fc.constant({ kind: "pause" as const }), weight: 1 },
    {
      arbitrary: fc.record({ kind: fc.constantFrom("fail" as const, "die" as const, "interrupt" as const) }),
      weight: 1
    },
    { arbitrary: tie("transaction"), weight: 3 }
  ),
  transaction: fc.record({
    kind: fc.constant("transaction" as const),
    refs: fc.uniqueArray(ref, { minLength: 1, maxLength: 3 }),
    body: fc.array(tie("statement"), { maxLength: 5 }),
    isRecovered: fc.boolean()
  })
}))

type Values = [number, number, number]

/**
 * The model: the state is copied before, and the copy is restored unless the body succeeds. Gives whether it has
 * succeeded.
 */
const runModel = (state: { values: Values }, { body }: Transaction): boolean => {
  const before = state.values
  state.values = [...before]
  for (const statement of body) {
    if (statement.kind === "pause") continue
    if (statement.kind === "add") {
      state.values[statement.ref]! += statement.n
      continue
    }
    if (statement.kind === "transaction" && (runModel(state, statement) || statement.isRecovered)) continue
    state.values = before
    return false
  }
  return true
}

const endings = { fail: Effect.fail("failed"), die: Effect.die("died"), interrupt: Effect.interrupt }

/** The same on refs. Notes the values that are seen after each statement. */
const runReal = (
  refs: ReadonlyArray<TransactionalRef.TransactionalRef<number>>,
  { body, refs: named }: Transaction
): Effect.Effect<void, unknown> =>
  TransactionalRef.transaction(
    named.map((index) => refs[index]!) as [TransactionalRef.TransactionalRef<number>],
    (drafts) =>
      Effect.forEach(body, (statement): Effect.Effect<unknown, unknown> => {
        switch (statement.kind) {
          case "pause":
            return Effect.yieldNow()
          case "add": {
            const draft = (drafts as ReadonlyArray<Ref.Ref<number>>)[named.indexOf(statement.ref)]
            const add = (n: number) => n + statement.n
            return draft === undefined ? TransactionalRef.update(refs[statement.ref]!, add) : Ref.update(draft, add)
          }
          case "transaction": {
            const inner = runReal(refs, statement)
            return statement.isRecovered ? Effect.exit(inner) : inner
          }
          default:
            return endings[statement.kind]
        }
      }, { discard: true })
  )

describe("T1, T4: random programs of nested, failing, dying and interrupted transactions", () => {
  it("do the same as a model that copies the state and puts the copy back", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(transaction, { minLength: 1, maxLength: 4 }), async (program) => {
        const state: { values: Values } = { values: [0, 0, 0] }
        await Effect.runPromise(Effect.gen(function*() {
          const refs = yield* Effect.replicateEffect(TransactionalRef.make(0), 3)
          for (const one of program) {
            const exit = yield* Effect.exit(runReal(refs, one))
            assert.strictEqual(Exit.isSuccess(exit), runModel(state, one))
            const values = yield* TransactionalRef.snapshot(refs as [typeof refs[0] & {}])
            assert.deepStrictEqual([...values as ReadonlyArray<number>], state.values)
            for (const ref of refs) {
              const { holder, waiters } = yield* TransactionalRef.inspect(ref)
              assert.deepStrictEqual([Option.isNone(holder), waiters], [true, 0])
            }
          }
        }))
      }),
      { numRuns: amount({ quick: 2_000, full: 20_000 }) }
    )
  })
})
