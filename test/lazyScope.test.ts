import { assert, describe, it } from "@effect/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Hash from "effect/Hash"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { withLazyScope } from "../src/internal/lazyScope.js"

class Color extends Context.Tag("Color")<Color, string>() {}

class Size extends Context.Tag("Size")<Size, number>() {}

const lazy = (context: Context.Context<Color> = Context.make(Color, "red")) => {
  const scope = Effect.runSync(Scope.make())
  const asked = { times: 0 }
  const lazily = withLazyScope(context, {
    scope: () => {
      asked.times++
      return scope
    }
  })
  return { asked, lazily, plain: Context.add(context, Scope.Scope, scope as Scope.Scope), scope }
}

describe("a context with a scope that is made when it is asked for", () => {
  it("gives its other services, and knows that it has a scope, without making one", () => {
    const { asked, lazily } = lazy()
    assert.strictEqual(Context.get(lazily, Color), "red")
    assert.isTrue(Option.isNone(Context.getOption(lazily as Context.Context<any>, Size)))
    assert.isTrue(lazily.unsafeMap.has(Scope.Scope.key))
    assert.strictEqual(asked.times, 0)
  })

  it("is otherwise like a context that has had a scope from the beginning", () => {
    const { lazily, plain, scope } = lazy()
    assert.strictEqual(Context.get(lazily, Scope.Scope), scope)
    assert.strictEqual(Context.unsafeGet(lazily, Scope.Scope), scope)
    assert.isTrue(Equal.equals(lazily, plain) && Equal.equals(plain, lazily))
    assert.strictEqual(Hash.hash(lazily), Hash.hash(plain))
    assert.strictEqual(lazily.unsafeMap.size, 2)
    for (const list of ["keys", "values", "entries"] as const) {
      assert.deepStrictEqual([...lazily.unsafeMap[list]()], [...plain.unsafeMap[list]()])
    }
    const each: Array<unknown> = []
    lazily.unsafeMap.forEach((service, key) => each.push([key, service]))
    assert.deepStrictEqual(each, [...plain.unsafeMap])
    const others = Context.make(Size, 3)
    const pairs: ReadonlyArray<readonly [Context.Context<any>, Context.Context<any>]> = [
      [Context.add(lazily, Size, 3), Context.add(plain, Size, 3)],
      [Context.merge(lazily, others), Context.merge(plain, others)],
      [Context.merge(others, lazily), Context.merge(others, plain)],
      [Context.mergeAll(others, lazily), Context.mergeAll(others, plain)],
      [Context.omit(Color)(lazily), Context.omit(Color)(plain)],
      [Context.pick(Scope.Scope)(lazily), Context.pick(Scope.Scope)(plain)]
    ]
    for (const [made, expected] of pairs) {
      assert.instanceOf(made.unsafeMap, Map)
      assert.deepStrictEqual([...made.unsafeMap], [...expected.unsafeMap])
    }
  })

  it("hides the scope of the context around it, and can itself be around another", () => {
    const [outer, inner] = [lazy(), lazy()]
    const nested = lazy(outer.lazily)
    assert.strictEqual(Context.get(lazy(inner.plain).lazily, Color), "red")
    assert.strictEqual(Context.get(nested.lazily, Scope.Scope), nested.scope)
    assert.strictEqual(nested.lazily.unsafeMap.size, 2)
    assert.strictEqual(Context.get(Context.add(nested.lazily, Size, 1), Scope.Scope), nested.scope)
  })
})

describe("T7: the scope of a transaction", () => {
  it.effect("is the same for all fibers inside it, however they come by it", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const scopes = yield* TransactionalRef.transaction(ref, () =>
        Effect.all([
          Effect.scope,
          Effect.flatMap(Effect.fork(Effect.scope), Fiber.join),
          TransactionalRef.transaction(ref, () => Effect.scope),
          Effect.scoped(TransactionalRef.transaction(ref, () => Effect.scope)),
          Effect.provideService(Effect.scope, Color, "red"),
          Effect.map(Effect.context<Scope.Scope>(), Context.get(Scope.Scope))
        ]))
      assert.strictEqual(new Set(scopes).size, 1)
    }))

  it.effect("is closed at the end, also if a kept context is asked for it only then", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const ref = yield* TransactionalRef.make(0)
      const kept: Array<Context.Context<Scope.Scope>> = []
      const keeping = (asks: Effect.Effect<unknown, never, Scope.Scope>) =>
        TransactionalRef.transaction(ref, () =>
          Effect.zipRight(
            asks,
            Effect.zipRight(
              Effect.map(Effect.context<Scope.Scope>(), (context) => kept.push(context)),
              Effect.fail("no")
            )
          ))
      yield* Effect.ignore(keeping(Effect.scope))
      yield* Effect.ignore(keeping(Effect.void))
      for (const context of kept) {
        yield* Effect.provide(Effect.addFinalizer((exit) => Effect.sync(() => log.push(exit._tag))), context)
      }
      assert.deepStrictEqual(log, ["Failure", "Failure"])
    }))

  it.effect("holds the fibers that are forked in it", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const ends: Array<boolean> = []
      const note = (exit: Exit.Exit<unknown, unknown>) => Effect.sync(() => ends.push(Exit.isInterrupted(exit)))
      const forked = Effect.zipRight(Effect.forkScoped(Effect.onExit(Effect.never, note)), Effect.yieldNow())
      yield* TransactionalRef.transaction(ref, () => forked)
      yield* TransactionalRef.transaction(ref, () => Effect.flatMap(Effect.fork(forked), Fiber.join))
      assert.deepStrictEqual(ends, [true, true])
    }))

  it.effect("is not made if nothing asks for it", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const cue = yield* Deferred.make<void>()
      const context = yield* TransactionalRef.transaction(ref, (draft) =>
        Effect.zipRight(
          Effect.flatMap(Effect.fork(Effect.zipRight(draft.get, Deferred.succeed(cue, undefined))), Fiber.join),
          Effect.context<never>()
        ))
      const { owner } = context.unsafeMap as unknown as { readonly owner: { readonly madeScope: unknown } }
      assert.isUndefined(owner.madeScope)
    }))
})
