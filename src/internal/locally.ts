/**
 * Sets two FiberRefs for a while, in one step and without a copy of them all on the way back.
 *
 * `Effect.locally` copies the fiber's map of FiberRefs each time it sets one: four copies for two of them, which is
 * twice the cost of the transaction that they are set for. Here it is one copy. That needs a look at the map itself,
 * a private field of Effect's fiber: the public `getFiberRefs` is a copy too. Where the field is not found, or the
 * map is no longer the one that was set, because something else has set a FiberRef meanwhile (or forked a fiber,
 * which does), the two are set back one by one, as `Effect.locally` would.
 */
import type * as Array from "effect/Array"
import * as Equal from "effect/Equal"
import type * as Fiber from "effect/Fiber"
import type * as FiberId from "effect/FiberId"
import type * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"

interface Inside {
  readonly _fiberRefs?: FiberRefs.FiberRefs
  readonly getFiberRefs: () => FiberRefs.FiberRefs
  readonly setFiberRefs: (fiberRefs: FiberRefs.FiberRefs) => void
}

type Assignment<A> = readonly [fiberRef: FiberRef.FiberRef<A>, value: A]

/** To be called by the fiber itself. Gives what sets them back. */
export const locally = <A, B>(
  fiber: Fiber.RuntimeFiber<unknown, unknown>,
  first: Assignment<A>,
  second: Assignment<B>
): () => void => {
  const inside = fiber as Fiber.RuntimeFiber<unknown, unknown> & Inside
  const before = inside._fiberRefs ?? inside.getFiberRefs()
  const own = changed(before, (locals) => {
    assign(locals, fiber.id(), ...first)
    assign(locals, fiber.id(), ...second)
  })
  inside.setFiberRefs(own)
  return () =>
    inside.setFiberRefs(
      inside._fiberRefs === own ? before : changed(inside.getFiberRefs(), (locals) => {
        setBack(locals, fiber.id(), first[0], before)
        setBack(locals, fiber.id(), second[0], before)
      })
    )
}

type Locals = Map<FiberRef.FiberRef<any>, Array.NonEmptyReadonlyArray<readonly [FiberId.Single, any]>>

const changed = (fiberRefs: FiberRefs.FiberRefs, change: (locals: Locals) => void): FiberRefs.FiberRefs => {
  const locals: Locals = new Map(fiberRefs.locals)
  change(locals)
  return FiberRefs.unsafeMake(locals)
}

/** A FiberRef's value is a stack: on top that of the fiber itself, below it those that it has inherited. */
const assign = <A>(locals: Locals, fiberId: FiberId.Single, fiberRef: FiberRef.FiberRef<A>, value: A) => {
  const stack = locals.get(fiberRef)
  if (stack === undefined) return void locals.set(fiberRef, [[fiberId, value]])
  const inherited = Equal.equals(stack[0][0], fiberId) ? stack.slice(1) : stack
  locals.set(fiberRef, [[fiberId, value], ...inherited])
}

/** What was not set is not to be set: a memoized layer hands on what its building has set. */
const setBack = <A>(
  locals: Locals,
  fiberId: FiberId.Single,
  fiberRef: FiberRef.FiberRef<A>,
  before: FiberRefs.FiberRefs
) => {
  if (before.locals.has(fiberRef)) assign(locals, fiberId, fiberRef, FiberRefs.getOrDefault(before, fiberRef))
  else locals.delete(fiberRef)
}
