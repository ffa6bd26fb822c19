/**
 * Serializability of recorded histories, checked as Elle does with lists: each ref holds the list of the transactions
 * that appended to it. The final lists show the order of the writes. Each list that a transaction has read shows after
 * which transaction it has read, and which came next. Together with the transactions that began after the end of
 * others, this makes a graph of which transaction must come before which. With a circle in the graph, no serial order
 * explains the history.
 */
import { Interleavings } from "effect-holdfast/testing"
import { assert, describe, it } from "effect-holdfast/testing/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Ref from "effect/Ref"
import * as fc from "fast-check"
import { amount } from "./support/form.js"

type List = ReadonlyArray<string>

type Step =
  | { readonly kind: "read" | "append"; readonly ref: number }
  | { readonly kind: "pause" }
  | { readonly kind: "fail" }
  /** A transaction inside, on other refs or the same, whose failure is recovered from. */
  | { readonly kind: "nested"; readonly refs: ReadonlyArray<number>; readonly steps: ReadonlyArray<Step> }

type Program =
  | { readonly kind: "transaction"; readonly refs: ReadonlyArray<number>; readonly steps: ReadonlyArray<Step> }
  | { readonly kind: "snapshot" }
  | { readonly kind: "update"; readonly ref: number }

const refs = [0, 1, 2]
const ref = fc.constantFrom(...refs)
const several = fc.uniqueArray(ref, { minLength: 1, maxLength: 3 })

const simple = fc.oneof(
  { arbitrary: fc.record({ kind: fc.constantFrom("read" as const, "append" as const), ref }), weight: 6 },
  { arbitrary: fc.record({ kind: fc.constant("pause" as const) }), weight: 2 },
  { arbitrary: fc.record({ kind: fc.constant("fail" as const) }), weight: 1 }
)
const steps: fc.Arbitrary<ReadonlyArray<Step>> = fc.array(
  fc.oneof(
    { arbitrary: simple, weight: 4 },
    {
      arbitrary: fc.record({
        kind: fc.constant("nested" as const),
        refs: several,
        steps: fc.array(simple, { maxLength: 3 })
      }),
      weight: 1
    }
  ),
  { minLength: 1, maxLength: 4 }
)
const program: fc.Arbitrary<Program> = fc.oneof(
  { arbitrary: fc.record({ kind: fc.constant("transaction" as const), refs: several, steps }), weight: 5 },
  { arbitrary: fc.record({ kind: fc.constant("snapshot" as const) }), weight: 1 },
  { arbitrary: fc.record({ kind: fc.constant("update" as const), ref }), weight: 1 }
)

/** A transaction that has committed: what it did, and when. */
interface Committed {
  readonly id: string
  readonly began: number
  readonly ended: number
  /** The lists as the transaction found them, without its own appends. */
  readonly reads: ReadonlyArray<{ readonly ref: number; readonly list: List }>
  readonly appends: ReadonlySet<number>
}

interface History {
  readonly committed: ReadonlyArray<Committed>
  readonly lists: ReadonlyArray<List>
}

const record = (programs: ReadonlyArray<ReadonlyArray<Program>>): Effect.Effect<History> =>
  Effect.gen(function*() {
    const cells = yield* Effect.forEach(refs, (n) => TransactionalRef.make<List>([], { name: `ref ${n}` }))
    const committed: Array<Committed> = []
    let clock = 0

    const run = (id: string, program: Program): Effect.Effect<void> => {
      const began = clock++
      const reads: Array<{ ref: number; list: List }> = []
      const appends = new Set<number>()
      const note = (ref: number, list: List) => {
        reads.push({ ref, list: list.filter((by) => by !== id) })
      }
      const within = (held: ReadonlyArray<number>, steps: ReadonlyArray<Step>): Effect.Effect<void, unknown> =>
        TransactionalRef.transaction(held.map((n) => cells[n]!) as ReadonlyArray<typeof cells[number]>, (drafts) =>
          Effect.forEach(steps, (step): Effect.Effect<unknown, unknown> => {
            if (step.kind === "pause") {
              return Effect.yieldNow()
            }
            if (step.kind === "fail") {
              return Effect.fail("no")
            }
            if (step.kind === "nested") {
              const before = new Set(appends)
              // The appends of an inner transaction that fails are undone; what it has read still counts.
              return Effect.catchAll(within(step.refs, step.steps), () =>
                Effect.sync(() => {
                  appends.clear()
                  before.forEach((ref) =>
                    appends.add(ref)
                  )
                }))
            }
            const draft = (drafts as ReadonlyArray<Ref.Ref<List>>)[held.indexOf(step.ref)]
            // Only refs that the transaction holds are read: others may change before it ends.
            if (draft === undefined) return Effect.void
            return step.kind === "read"
              ? Effect.map(draft, (list) => note(step.ref, list))
              : Effect.zipRight(Ref.update(draft, (list) => [...list, id]), Effect.sync(() => appends.add(step.ref)))
          }, { discard: true }))
      const performed: Effect.Effect<void, unknown> = program.kind === "transaction"
        ? within(program.refs, program.steps)
        : program.kind === "snapshot"
        ? Effect.map(
          TransactionalRef.snapshot(cells as unknown as [TransactionalRef.TransactionalRef<List>]),
          (lists) => lists.forEach((list, ref) => note(ref, list))
        )
        : Effect.map(TransactionalRef.modify(cells[program.ref]!, (list) => [list, [...list, id]] as const), (list) => {
          note(program.ref, list)
          appends.add(program.ref)
        })
      return Effect.map(Effect.exit(performed), (exit) => {
        if (Exit.isSuccess(exit)) committed.push({ id, began, ended: clock++, reads, appends })
      })
    }

    const fibers = yield* Effect.forEach(programs, (programs, fiber) =>
      Effect.fork(Effect.forEach(programs, (program, index) =>
        Effect.suspend(() =>
          run(`${fiber}.${index}`, program)
        ))))
    for (const fiber of fibers) yield* Fiber.join(fiber)
    return { committed, lists: yield* Effect.forEach(cells, TransactionalRef.get) }
  })

/** Throws if no serial order explains the history. */
const check = ({ committed, lists }: History): void => {
  const ids = new Set(committed.map(({ id }) => id))
  const writers = lists.map((list) => list.filter((id, place) => list.indexOf(id) === place))
  const before = new Map(committed.map(({ id }) => [id, new Set<string>()]))
  const edge = (from: string | undefined, to: string | undefined) => {
    if (from !== undefined && to !== undefined && from !== to) before.get(to)!.add(from)
  }

  writers.forEach((order, ref) => {
    // The lists have nothing that was rolled back, and everything that was committed, with each transaction in one
    // piece.
    assert.deepStrictEqual(
      [...order].sort(),
      committed.filter(({ appends }) => appends.has(ref)).map(({ id }) => id).sort()
    )
    assert.lengthOf(lists[ref]!.filter((id, place, list) => place === 0 || list[place - 1] !== id), order.length)
    order.forEach((id, place) => edge(order[place - 1], id))
  })
  for (const { id, reads } of committed) {
    for (const { list, ref } of reads) {
      assert.deepStrictEqual(list, lists[ref]!.slice(0, list.length), "what was read was committed")
      for (const by of list) assert.isTrue(ids.has(by))
      const last = list.at(-1)
      edge(last, id)
      const others = writers[ref]!.filter((by) => by !== id)
      const next = others[last === undefined ? 0 : others.indexOf(last) + 1]
      edge(id, next)
    }
  }
  for (const one of committed) {
    for (const other of committed) if (one.ended < other.began) edge(one.id, other.id)
  }

  const done = new Set<string>()
  const under = new Set<string>()
  const visit = (id: string, path: ReadonlyArray<string>): void => {
    if (done.has(id)) return
    assert.isFalse(under.has(id), `no serial order: ${[...path, id].join(" after ")}`)
    under.add(id)
    for (const earlier of before.get(id)!) visit(earlier, [...path, id])
    under.delete(id)
    done.add(id)
  }
  for (const id of before.keys()) visit(id, [])
}

describe("T1: the history of random transactions", () => {
  it("has a serial order that puts each transaction before all that began after its end", async ({ task }) => {
    let interleavings = 0
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(program, { minLength: 1, maxLength: 3 }), { minLength: 2, maxLength: 4 }),
        async (programs) => {
          const report = await Effect.runPromise(Interleavings.explore(Effect.map(record(programs), check), {
            strategy: ["random", "pct"],
            seeds: 20,
            preemptions: 3
          }))
          interleavings += report.interleavings
        }
      ),
      { numRuns: amount({ quick: 50, full: 500 }) }
    )
    task.meta.interleavings = interleavings
  })

  const committed = (
    id: string,
    began: number,
    reads: Committed["reads"],
    ...appends: ReadonlyArray<number>
  ): Committed => ({
    id,
    began,
    ended: began + 1,
    reads,
    appends: new Set(appends)
  })
  const unexplained: Record<string, History> = {
    "a lost update": {
      committed: [committed("a", 0, [{ ref: 0, list: [] }], 0), committed("b", 0, [{ ref: 0, list: [] }], 0)],
      lists: [["a", "b"], [], []]
    },
    "a skewed write": {
      committed: [committed("a", 0, [{ ref: 0, list: [] }], 1), committed("b", 0, [{ ref: 1, list: [] }], 0)],
      lists: [["b"], ["a"], []]
    },
    "a snapshot of two points in time": {
      committed: [committed("a", 0, [], 0, 1), committed("s", 0, [{ ref: 0, list: ["a"] }, { ref: 1, list: [] }])],
      lists: [["a"], ["a"], []]
    },
    "a read of what was rolled back": {
      committed: [committed("s", 0, [{ ref: 0, list: ["a"] }])],
      lists: [[], [], []]
    },
    "a read of an old value": {
      committed: [committed("a", 0, [], 0), committed("s", 5, [{ ref: 0, list: [] }])],
      lists: [["a"], [], []]
    }
  }
  for (const [what, history] of Object.entries(unexplained)) {
    it(`would be distinguished from one with ${what}`, () => {
      assert.throws(() => check(history))
    })
  }
})
