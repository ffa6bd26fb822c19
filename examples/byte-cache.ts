/**
 * A cache with a maximum number of bytes, and what a defect in the middle of `put` leaves behind: once guarded by a
 * lock, once by a transaction.
 *
 * Run it with `node --import tsx examples/byte-cache.ts`.
 */
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import type * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import { fileURLToPath } from "node:url"

interface Contents {
  readonly size: number
  readonly entries: HashMap.HashMap<string, Uint8Array>
}

export interface ByteCache {
  /** `false` if the key already exists, or the bytes have no room. */
  readonly put: (key: string, bytes: Uint8Array) => Effect.Effect<boolean>
  readonly get: (key: string) => Effect.Effect<Option.Option<Uint8Array>>
  /** The recorded size, and the true size. */
  readonly sizes: Effect.Effect<{ readonly believed: number; readonly actual: number }>
}

class Burned extends Data.Error<{ readonly message: string }> {}

const empty: Contents = { size: 0, entries: HashMap.empty() }

/** In two steps, between which the key `burn` is a defect. */
const putInto = (
  contents: Ref.Ref<Contents>,
  maxBytes: number,
  key: string,
  bytes: Uint8Array
): Effect.Effect<boolean> =>
  Effect.gen(function*() {
    const { entries, size } = yield* Ref.get(contents)
    if (HashMap.has(entries, key) || size + bytes.length > maxBytes) return false
    yield* Ref.update(contents, (now) => ({ ...now, size: now.size + bytes.length }))
    if (key === "burn") return yield* Effect.die(new Burned({ message: "some like to watch the world burn" }))
    yield* Ref.update(contents, (now) => ({ ...now, entries: HashMap.set(now.entries, key, bytes) }))
    return true
  })

const sizesOf = ({ entries, size }: Contents) => ({
  believed: size,
  actual: HashMap.reduce(entries, 0, (sum, bytes) => sum + bytes.length)
})

/** The lock is released after the defect, but the state is half changed. */
export const withLock = (maxBytes: number): Effect.Effect<ByteCache> =>
  Effect.gen(function*() {
    const contents = yield* Ref.make(empty)
    const lock = yield* Effect.makeSemaphore(1)
    return {
      put: (key, bytes) => lock.withPermits(1)(putInto(contents, maxBytes, key, bytes)),
      get: (key) => Effect.map(Ref.get(contents), ({ entries }) => HashMap.get(entries, key)),
      sizes: Effect.map(Ref.get(contents), sizesOf)
    }
  })

/** The same steps on a draft: the defect drops it. */
export const withTransaction = (maxBytes: number): Effect.Effect<ByteCache> =>
  Effect.gen(function*() {
    const contents = yield* TransactionalRef.make(empty, { name: "contents" })
    return {
      put: (key, bytes) =>
        TransactionalRef.transaction(contents, (draft) => putInto(draft, maxBytes, key, bytes)).pipe(
          // There is no invariant, no outer transaction and only one ref, so none of these errors can happen.
          Effect.orDie
        ),
      get: (key) => Effect.map(TransactionalRef.get(contents), ({ entries }) => HashMap.get(entries, key)),
      sizes: Effect.map(TransactionalRef.get(contents), sizesOf)
    }
  })

const program = Effect.gen(function*() {
  for (const [name, make] of Object.entries({ "a lock": withLock, "a transaction": withTransaction })) {
    const cache = yield* make(5)
    yield* cache.put("good", Uint8Array.of(0, 0))
    yield* Effect.exit(cache.put("burn", Uint8Array.of(0, 0, 0)))
    const { actual, believed } = yield* cache.sizes
    console.log(
      `with ${name}: believed ${believed} bytes, holds ${actual}; room for two more: ${yield* cache.put(
        "more",
        Uint8Array.of(1, 1)
      )}`
    )
  }
})

if (process.argv[1] === fileURLToPath(import.meta.url)) Effect.runFork(program)
