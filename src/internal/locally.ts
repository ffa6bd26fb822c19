/**
 * Sets two FiberRefs for a while, in one step and without copying all FiberRefs.
 *
 * `Effect.locally` copies the fiber's map of FiberRefs each time it sets or restores one: two FiberRefs need four
 * copies, which cost twice as much as the transaction that they are set for. This module instead gives the fiber a map
 * that contains the two values and reads all others from the previous map, and afterwards gives the fiber its previous
 * map back. Exchanging maps relies on two things that Effect does not promise:
 *
 * - A map of FiberRefs is never changed, and only its reading methods are used.
 * - The map is in a private field of the fiber, since the public `getFiberRefs` copies it. If the field is missing, or
 *   if another FiberRef was set meanwhile (forking a fiber does this), so that the map is a new one, the two FiberRefs
 *   are restored one by one, as `Effect.locally` does.
 */
import type * as Array from "effect/Array"
import * as Equal from "effect/Equal"
import type * as Fiber from "effect/Fiber"
import type * as FiberId from "effect/FiberId"
import type * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

/** A fiber, with its private field of FiberRefs. */
interface Inside {
  readonly _fiberRefs?: FiberRefs.FiberRefs
  readonly getFiberRefs: () => FiberRefs.FiberRefs
  readonly setFiberRefs: (fiberRefs: FiberRefs.FiberRefs) => void
}

/** A FiberRef's value is a stack: the fiber's own value is on top, inherited values are below. */
type Stack = Array.NonEmptyReadonlyArray<readonly [FiberId.Single, any]>

type Locals = ReadonlyMap<FiberRef.FiberRef<any>, Stack>

/** Must be called on the fiber itself. Returns a function that restores both FiberRefs. */
export const locally = <A, B>(
  fiber: AnyFiber,
  first: FiberRef.FiberRef<A>,
  firstValue: NoInfer<A>,
  second: FiberRef.FiberRef<B>,
  secondValue: NoInfer<B>
): WithTwo => {
  const inside = fiber as AnyFiber & Inside
  const before = inside._fiberRefs ?? inside.getFiberRefs()
  const own = new WithTwo(before, fiber.id(), first, firstValue, second, secondValue)
  inside.setFiberRefs(own.fiberRefs)
  return own
}

/** A fiber's map of FiberRefs in which two are set. */
export class WithTwo implements Locals {
  readonly fiberRefs: FiberRefs.FiberRefs
  private readonly before: FiberRefs.FiberRefs
  private readonly others: Locals
  private readonly fiberId: FiberId.Single
  private readonly first: FiberRef.FiberRef<any>
  private readonly firstValue: unknown
  private readonly second: FiberRef.FiberRef<any>
  private readonly secondStack: Stack
  private whole: Map<FiberRef.FiberRef<any>, Stack> | undefined

  constructor(
    before: FiberRefs.FiberRefs,
    fiberId: FiberId.Single,
    first: FiberRef.FiberRef<any>,
    firstValue: unknown,
    second: FiberRef.FiberRef<any>,
    secondValue: unknown
  ) {
    const { locals } = before
    // Such a map is never laid over another map of this kind, so that a look-up passes through at most one of them.
    const others = locals instanceof WithTwo ? locals.all() : locals
    this.before = before
    this.others = others
    this.first = first
    this.firstValue = firstValue
    this.fiberId = fiberId
    this.second = second
    this.secondStack = stackOn(others.get(second), fiberId, secondValue)
    this.fiberRefs = FiberRefs.unsafeMake(this as unknown as Map<FiberRef.FiberRef<any>, Stack>)
  }

  /** Must be called on the fiber itself. */
  setBack(fiber: AnyFiber): void {
    const inside = fiber as AnyFiber & Inside
    if (inside._fiberRefs === this.fiberRefs) {
      inside.setFiberRefs(this.before)
      return
    }
    const locals = new Map(inside.getFiberRefs().locals)
    for (const fiberRef of [this.first, this.second]) {
      const stack = this.before.locals.get(fiberRef)
      // A FiberRef that was not set before is unset again: a memoized layer passes on the FiberRefs that were set while
      // it was built.
      if (stack === undefined) locals.delete(fiberRef)
      else locals.set(fiberRef, stackOn(locals.get(fiberRef), fiber.id(), stack[0][1]))
    }
    inside.setFiberRefs(FiberRefs.unsafeMake(locals))
  }

  get(fiberRef: FiberRef.FiberRef<any>): Stack | undefined {
    if (fiberRef === this.second) return this.secondStack
    if (fiberRef === this.first) return this.firstStack()
    return this.others.get(fiberRef)
  }

  has(fiberRef: FiberRef.FiberRef<any>): boolean {
    return fiberRef === this.second || fiberRef === this.first || this.others.has(fiberRef)
  }

  get size(): number {
    return this.all().size
  }

  entries(): MapIterator<[FiberRef.FiberRef<any>, Stack]> {
    return this.all().entries()
  }

  keys(): MapIterator<FiberRef.FiberRef<any>> {
    return this.all().keys()
  }

  values(): MapIterator<Stack> {
    return this.all().values()
  }

  forEach(f: (stack: Stack, fiberRef: FiberRef.FiberRef<any>, map: Locals) => void): void {
    this.all().forEach(f)
  }

  [Symbol.iterator](): MapIterator<[FiberRef.FiberRef<any>, Stack]> {
    return this.entries()
  }

  /** Made only when it is needed, since most transactions end before that. */
  private firstStack(): Stack {
    return stackOn(this.others.get(this.first), this.fiberId, this.firstValue)
  }

  private all(): Map<FiberRef.FiberRef<any>, Stack> {
    return this.whole ??= new Map(this.others).set(this.first, this.firstStack()).set(this.second, this.secondStack)
  }
}

const stackOn = (stack: Stack | undefined, fiberId: FiberId.Single, value: unknown): Stack => {
  if (stack === undefined) return [[fiberId, value]]
  const [[owner]] = stack
  const isOwn = owner === fiberId || Equal.equals(owner, fiberId)
  if (stack.length === 1) return isOwn ? [[fiberId, value]] : [[fiberId, value], stack[0]]
  return [[fiberId, value], ...isOwn ? stack.slice(1) : stack]
}
