/**
 * One session's row in its store. Each call has a deadline, after which it counts as failed, though a write may still
 * arrive: whoever writes must be able to recognise its own row.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Row, Service, StoreError } from "../../SessionStore.js"

/** The store has not answered, or not in time. */
export class Unavailable extends Data.TaggedError("Unavailable")<{ readonly detail: string }> {}

export interface Read {
  readonly row: Row | undefined
  /** The store's clock. */
  readonly now: number
}

/** What becomes of a row that was read: another is written, or something was found that speaks against that. */
export type Change<A> =
  | { readonly _tag: "Write"; readonly row: Row }
  | { readonly _tag: "Found"; readonly found: A }

export type Changed<A> =
  | { readonly _tag: "Written"; readonly row: Row; readonly now: number }
  | { readonly _tag: "Found"; readonly found: A; readonly now: number }

export const write = (row: Row): Change<never> => ({ _tag: "Write", row })

export const found = <A>(found: A): Change<A> => ({ _tag: "Found", found })

/** In milliseconds, for one call. */
const deadline = 2000

export class Rows {
  readonly read: Effect.Effect<Read, Unavailable>
  private readonly store: Service
  private readonly key: string

  constructor(store: Service, key: string) {
    this.store = store
    this.key = key
    this.read = Effect.map(inTime(store.read(key)), ({ now, row }) => ({ row: Option.getOrUndefined(row), now }))
  }

  /** Whether the row still had the revision that was read. */
  write(read: Row | undefined, row: Row): Effect.Effect<boolean, Unavailable> {
    return inTime(this.store.compareAndSet(this.key, read?.revision, row))
  }

  /** Reads and writes until nobody writes in between. */
  change<A>(next: (read: Read) => Change<A>): Effect.Effect<Changed<A>, Unavailable> {
    return Effect.flatMap(this.read, ({ now, row }) => {
      const change = next({ now, row })
      if (change._tag === "Found") return Effect.succeed({ ...change, now })
      return Effect.flatMap(
        this.write(row, change.row),
        (isWritten): Effect.Effect<Changed<A>, Unavailable> =>
          isWritten ? Effect.succeed({ _tag: "Written", row: change.row, now }) : this.change(next)
      )
    })
  }
}

const inTime = <A>(call: Effect.Effect<A, StoreError>): Effect.Effect<A, Unavailable> =>
  call.pipe(
    Effect.mapError((error) => new Unavailable({ detail: error.message })),
    Effect.catchAllDefect(() => Effect.fail(new Unavailable({ detail: "the store has thrown" }))),
    // A call that cannot be interrupted is left behind.
    Effect.disconnect,
    Effect.timeoutFail({
      duration: deadline,
      onTimeout: () => new Unavailable({ detail: `the store has not answered within ${deadline} ms` })
    }),
    // The deadline holds for callers too who cannot be interrupted.
    Effect.interruptible,
    Effect.disconnect
  )
