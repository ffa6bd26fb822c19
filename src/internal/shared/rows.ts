/**
 * Reads and writes one session's row in its store. Each call has a deadline, after which it counts as failed, though a
 * write may still arrive: a writer must be able to recognise its own row. Waiting for a turn behind other sessions'
 * calls is no delay of the store's, as long as the store answers those.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Row, Service, StoreError } from "../../SessionStore.js"
import { first } from "../first.js"
import type { Queue } from "./queue.js"

/** The store has not answered, or not in time. */
export class Unavailable extends Data.TaggedError("Unavailable")<{ readonly detail: string }> {}

/** A look at two clocks. */
export interface Time {
  /** The store's. */
  readonly now: number
  /** The process's own monotonic clock, from before the store was asked: an answer may take its time. */
  readonly askedAt: number
}

export interface Read extends Time {
  readonly row: Row | undefined
}

/** The decision about a row that was read: to write another row, or not to, because of what was found. */
export type Change<A> =
  | { readonly _tag: "Write"; readonly row: Row }
  | { readonly _tag: "Found"; readonly found: A }

export type Changed<A> =
  & ({ readonly _tag: "Written"; readonly row: Row } | { readonly _tag: "Found"; readonly found: A })
  & { readonly time: Time }

export const write = (row: Row): Change<never> => ({ _tag: "Write", row })

export const found = <A>(found: A): Change<A> => ({ _tag: "Found", found })

/** How long one call may take, in milliseconds. */
const deadline = 2000

/**
 * The deadline is waited for in parts. When a process has stood still (a laptop slept), an old timer fires before the
 * store's answer is read from the socket. So the process loses one part of the deadline, and not the answer.
 */
const parts = 4

export class Rows {
  /** The row, for a session that has nothing to lose yet: sessions that have a lease go first. */
  readonly read: Effect.Effect<Read, Unavailable>
  private readonly readNow: Effect.Effect<Read, Unavailable>
  private readonly store: Service
  private readonly key: string
  private readonly queue: Queue

  constructor(store: Service, key: string, queue: Queue, monotonic: () => number) {
    this.store = store
    this.key = key
    this.queue = queue
    const read = Effect.suspend(() => {
      const askedAt = monotonic()
      return Effect.map(store.read(key), ({ now, row }) => ({ row: Option.getOrUndefined(row), now, askedAt }))
    })
    this.read = inTime(queue, false, read)
    this.readNow = inTime(queue, true, read)
  }

  /** Whether the row still had the revision that was read. */
  write(read: Row | undefined, row: Row): Effect.Effect<boolean, Unavailable> {
    return inTime(this.queue, true, this.store.compareAndSet(this.key, read?.revision, row))
  }

  /** Reads and writes until nobody writes in between. */
  change<A>(next: (read: Read) => Change<A>): Effect.Effect<Changed<A>, Unavailable> {
    return Effect.flatMap(this.readNow, (read) => {
      const { row, ...time } = read
      const change = next(read)
      if (change._tag === "Found") return Effect.succeed({ ...change, time })
      return Effect.flatMap(
        this.write(row, change.row),
        (isWritten): Effect.Effect<Changed<A>, Unavailable> =>
          isWritten ? Effect.succeed({ _tag: "Written", row: change.row, time }) : this.change(next)
      )
    })
  }
}

const unanswered = new Unavailable({ detail: `the store has not answered within ${deadline} ms` })

const struck = Effect.repeatN(Effect.sleep(deadline / parts), parts - 1)

/** The call when it is its turn, within its deadline. */
const inTime = <A>(
  queue: Queue,
  isUrgent: boolean,
  call: Effect.Effect<A, StoreError>
): Effect.Effect<A, Unavailable> => {
  const answer = Effect.sync(() => queue.answer())
  const answered = call.pipe(
    Effect.mapError((error) => new Unavailable({ detail: error.message })),
    Effect.catchAllDefect(() => Effect.fail(new Unavailable({ detail: "the store has thrown" }))),
    Effect.tapBoth({ onFailure: () => answer, onSuccess: () => answer }),
    // A call that cannot be interrupted is left behind.
    Effect.disconnect
  )
  return Effect.suspend(() => {
    const own = queue.call(isUrgent)
    const onStrike = Effect.suspend(() => {
      queue.strike(own)
      return Effect.fail(unanswered)
    })
    return Effect.flatMap(
      queue.turnOf(own),
      (hasTurn) => hasTurn ? first(answered, Effect.zipRight(struck, onStrike)) : Effect.fail(unanswered)
    ).pipe(
      Effect.ensuring(Effect.sync(() => queue.leave(own)))
    )
  }).pipe(
    // The deadline holds for callers too who cannot be interrupted.
    Effect.interruptible,
    Effect.disconnect
  )
}
