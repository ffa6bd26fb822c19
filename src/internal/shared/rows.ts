/**
 * Reads and writes one session's row in its store. Each call has a deadline, after which it counts as failed. The write
 * may still arrive, so a writer must be able to recognise its own row. The time that a call waits behind other
 * sessions' calls does not count, as long as the store answers those.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import type { Row, Service, StoreError } from "../../SessionStore.js"
import { first } from "../first.js"
import type { UserEffects } from "../userEffects.js"
import type { Queue } from "./queue.js"

/** The store has failed, or has not answered in time. */
export class Unavailable extends Data.TaggedError("Unavailable")<{ readonly detail: string }> {}

/** The time by two clocks. */
export interface Time {
  /** The store's clock. */
  readonly now: number
  /** The process's own monotonic clock, read before the store was asked, since an answer may take long. */
  readonly askedAt: number
}

export interface Read extends Time {
  readonly row: Row | undefined
}

/** The decision about a row that was read: to write another row, or to stop because of what was found. */
export type Change<A> =
  | { readonly _tag: "Write"; readonly row: Row }
  | { readonly _tag: "Found"; readonly found: A }

export type Changed<A> =
  & ({ readonly _tag: "Written"; readonly row: Row } | { readonly _tag: "Found"; readonly found: A })
  & { readonly time: Time }

export const write = (row: Row): Change<never> => ({ _tag: "Write", row })

export const found = <A>(found: A): Change<A> => ({ _tag: "Found", found })

/** How long one call may take, in milliseconds. */
export const deadline = 2000

/**
 * The deadline is several short timers in a row. After a process was suspended (a laptop slept), an old timer fires
 * before the store's answer is read from the socket. With several timers the process loses only one of them, and not
 * the answer.
 */
const parts = 4

export class Rows {
  /** Reads the row, for a session without a lease: sessions that have a lease go first. */
  readonly read: Effect.Effect<Read, Unavailable>
  private readonly readNow: Effect.Effect<Read, Unavailable>
  private readonly store: Service
  private readonly key: string
  private readonly queue: Queue
  private readonly calls: UserEffects

  /** `calls` has the calls of the store, including those that were given up and still run. */
  constructor(store: Service, key: string, queue: Queue, calls: UserEffects, monotonic: () => number) {
    this.store = store
    this.key = key
    this.queue = queue
    this.calls = calls
    const read = Effect.suspend(() => {
      const askedAt = monotonic()
      return Effect.map(store.read(key), ({ now, row }) => ({ row: Option.getOrUndefined(row), now, askedAt }))
    })
    this.read = inTime(queue, calls, false, read)
    this.readNow = inTime(queue, calls, true, read)
  }

  /** Writes the row. Gives whether the stored row still had the revision that was read. */
  write(read: Row | undefined, row: Row): Effect.Effect<boolean, Unavailable> {
    return inTime(this.queue, this.calls, true, this.store.compareAndSet(this.key, read?.revision, row))
  }

  /** Runs all these calls within the time of one, or of a few. A call that is cut may still arrive. */
  withinDeadline<A, E>(calls: Effect.Effect<A, E>, times = 1): Effect.Effect<A, E | Unavailable> {
    const over = Effect.zipRight(Effect.repeatN(struck, times - 1), Effect.fail(unanswered))
    return this.calls.run(Effect.interruptible(first(calls, over)))
  }

  /** Reads and writes, again and again until no other process writes in between. `lost` counts the writes in vain. */
  change<A>(next: (read: Read) => Change<A>, lost = 0): Effect.Effect<Changed<A>, Unavailable> {
    return Effect.flatMap(this.readNow, (read) => {
      const { row, ...time } = read
      const change = next(read)
      if (change._tag === "Found") return Effect.succeed({ ...change, time })
      return Effect.flatMap(
        this.write(row, change.row),
        (isWritten): Effect.Effect<Changed<A>, Unavailable> =>
          isWritten
            ? Effect.succeed({ _tag: "Written", row: change.row, time })
            : Effect.zipRight(pauseAfter(lost + 1), this.change(next, lost + 1))
      )
    })
  }
}

/**
 * Waits after so many lost writes in a row, and at last fails: the store's reads do not follow its writes. Processes
 * that compete lose a few at most, and need not wait after the first ones.
 */
export const pauseAfter = (lost: number): Effect.Effect<void, Unavailable> =>
  lost < 3
    ? Effect.void
    : lost < 20
    ? Effect.flatMap(Random.next, (share) => Effect.sleep(share * Math.min(2 ** lost, 500)))
    : Effect.fail(new Unavailable({ detail: `${lost} writes in a row found that the row had changed` }))

const unanswered = new Unavailable({ detail: `the store has not answered within ${deadline} ms` })

const struck = Effect.repeatN(Effect.sleep(deadline / parts), parts - 1)

/** Runs the call when it is its turn, within its deadline. */
const inTime = <A>(
  queue: Queue,
  calls: UserEffects,
  isUrgent: boolean,
  call: Effect.Effect<A, StoreError>
): Effect.Effect<A, Unavailable> => {
  const answer = Effect.sync(() => queue.answer())
  // A call that cannot be interrupted goes on in the background.
  const answered = calls.run(call.pipe(
    Effect.mapError((error) => new Unavailable({ detail: error.message })),
    Effect.catchAllDefect(() => Effect.fail(new Unavailable({ detail: "the store has thrown" }))),
    Effect.tapBoth({ onFailure: () => answer, onSuccess: () => answer })
  ))
  const inTurn = Effect.suspend(() => {
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
  })
  // The deadline must also hold for callers that cannot be interrupted.
  return calls.run(Effect.interruptible(inTurn))
}
