/**
 * Ways to guard a counter that is read, changed by a step, and written. All Effects use the same steps, and every
 * increment is a new effect, as in a program; only reusable parts are reused (`withPermits(1)`).
 */
import AsyncLock from "async-lock"
import { Mutex } from "async-mutex"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as STM from "effect/STM"
import * as SynchronizedRef from "effect/SynchronizedRef"
import * as TRef from "effect/TRef"
import PMutex from "p-mutex"

/** The step between reading and writing: a function, an effect that does not wait, or an effect that does. */
export type Body = "pure" | "synchronous" | "asynchronous"

/** Runs the given number of fibers, each with the given number of increments, and gives the counter's final value. */
export type Increments = (fibers: number, each: number) => Promise<number>

export interface Contender {
  readonly name: string
  /** Undefined if the contender cannot have such a body. */
  readonly bodies: { readonly [B in Body]?: Increments }
  /** Whether a thousand waiters are measured only once, because they take so long. */
  readonly isSlowToWake?: true
}

// -----------------------------------------------------------------------------
// steps
// -----------------------------------------------------------------------------

const pure = (n: number) => n + 1

const synchronous = (n: number) => Effect.sync(() => n + 1)

/** Suspends the fiber: Effect's scheduler goes on with it in a later microtask, after all that are ready before it. */
const asynchronous = (n: number) => Effect.as(Effect.yieldNow(), n + 1)

const readAndWrite = (ref: Ref.Ref<number>, step: (n: number) => Effect.Effect<number>) =>
  Effect.flatMap(Effect.flatMap(Ref.get(ref), step), (n) => Ref.set(ref, n))

// -----------------------------------------------------------------------------
// Effects
// -----------------------------------------------------------------------------

const inFibers = <S, E>(
  make: Effect.Effect<S>,
  increment: (state: S) => Effect.Effect<unknown, E>,
  get: (state: S) => Effect.Effect<number>
): Increments =>
(fibers, each) =>
  Effect.runPromise(Effect.flatMap(make, (state) => {
    const fiber = Effect.suspend(() => {
      let left = each
      return Effect.whileLoop({
        while: () => left > 0,
        body: () => increment(state),
        step: () => {
          left--
        }
      })
    })
    const all = Effect.all(Array.from({ length: fibers }, () => fiber), { concurrency: "unbounded", discard: true })
    return Effect.zipRight(fibers === 1 ? fiber : all, get(state))
  }))

/** The solution with Effect alone. It guards, but does not roll back. */
export const semaphore: Contender = (() => {
  const guardedRef = Effect.all({
    ref: Ref.make(0),
    guarded: Effect.map(Effect.makeSemaphore(1), (semaphore) => semaphore.withPermits(1))
  })
  const increments = (increment: (ref: Ref.Ref<number>) => Effect.Effect<void>) =>
    inFibers(guardedRef, ({ guarded, ref }) => guarded(increment(ref)), ({ ref }) => Ref.get(ref))
  return {
    name: "Semaphore(1) + Ref",
    bodies: {
      pure: increments((ref) => Ref.update(ref, pure)),
      synchronous: increments((ref) => readAndWrite(ref, synchronous)),
      asynchronous: increments((ref) => readAndWrite(ref, asynchronous))
    },
    isSlowToWake: true
  }
})()

const unguarded: Contender = {
  name: "Ref.update, no guard",
  bodies: { pure: inFibers(Ref.make(0), (ref) => Ref.update(ref, pure), Ref.get) }
}

const synchronizedRef: Contender = {
  name: "SynchronizedRef",
  bodies: {
    pure: inFibers(SynchronizedRef.make(0), (ref) => SynchronizedRef.update(ref, pure), SynchronizedRef.get),
    synchronous: inFibers(
      SynchronizedRef.make(0),
      (ref) => SynchronizedRef.updateEffect(ref, synchronous),
      SynchronizedRef.get
    ),
    asynchronous: inFibers(
      SynchronizedRef.make(0),
      (ref) => SynchronizedRef.updateEffect(ref, asynchronous),
      SynchronizedRef.get
    )
  },
  isSlowToWake: true
}

const stm: Contender = {
  name: "STM.commit of TRef.update",
  bodies: {
    pure: inFibers(
      STM.commit(TRef.make(0)),
      (ref) => STM.commit(TRef.update(ref, pure)),
      (ref) => STM.commit(TRef.get(ref))
    )
  }
}

export const update: Contender = {
  name: "Holdfast, update",
  bodies: {
    pure: inFibers(TransactionalRef.make(0), (ref) => TransactionalRef.update(ref, pure), TransactionalRef.get)
  }
}

export const updateEffect: Contender = {
  name: "Holdfast, updateEffect",
  bodies: {
    synchronous: inFibers(
      TransactionalRef.make(0),
      (ref) => TransactionalRef.updateEffect(ref, synchronous),
      TransactionalRef.get
    ),
    asynchronous: inFibers(
      TransactionalRef.make(0),
      (ref) => TransactionalRef.updateEffect(ref, asynchronous),
      TransactionalRef.get
    )
  }
}

export const transaction: Contender = {
  name: "Holdfast, transaction",
  bodies: {
    synchronous: inFibers(
      TransactionalRef.make(0),
      (ref) => TransactionalRef.transaction(ref, (draft) => readAndWrite(draft, synchronous)),
      TransactionalRef.get
    ),
    asynchronous: inFibers(
      TransactionalRef.make(0),
      (ref) => TransactionalRef.transaction(ref, (draft) => readAndWrite(draft, asynchronous)),
      TransactionalRef.get
    )
  }
}

// -----------------------------------------------------------------------------
// promises
// -----------------------------------------------------------------------------

type Section = () => Promise<void> | void

/**
 * Locks for promises: no Effect, no interruption, no rollback, and so a floor rather than a rival. A fiber is an async
 * function, and the asynchronous step awaits a settled promise, which like `yieldNow` comes back in a later microtask.
 */
const locked = (name: string, make: () => (section: Section) => Promise<void>): Contender => {
  const increments = (sectionOf: (counter: { n: number }) => Section): Increments => async (fibers, each) => {
    const counter = { n: 0 }
    const lock = make()
    const fiber = async () => {
      for (let left = each; left > 0; left--) await lock(sectionOf(counter))
    }
    await Promise.all(Array.from({ length: fibers }, fiber))
    return counter.n
  }
  return {
    name: `${name} *`,
    bodies: {
      pure: increments((counter) => () => {
        counter.n++
      }),
      synchronous: increments((counter) => async () => {
        counter.n++
      }),
      asynchronous: increments((counter) => async () => {
        const { n } = counter
        await Promise.resolve()
        counter.n = n + 1
      })
    }
  }
}

const asyncMutex = locked("async-mutex", () => {
  const mutex = new Mutex()
  return (section) => mutex.runExclusive(section)
})

const pMutex = locked("p-mutex", () => {
  const mutex = new PMutex()
  return (section) => mutex.withLock(section)
})

const asyncLock = locked("async-lock", () => {
  // By default async-lock refuses the 1,001st waiter.
  const lock = new AsyncLock({ maxPending: Infinity })
  return (section) => lock.acquire("counter", section)
})

export const contenders: ReadonlyArray<Contender> = [
  semaphore,
  unguarded,
  synchronizedRef,
  stm,
  update,
  updateEffect,
  transaction,
  asyncMutex,
  pMutex,
  asyncLock
]
