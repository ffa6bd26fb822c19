import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Scope from "effect/Scope"
import { closeScope } from "../src/internal/closeScope.js"
import { interruptedInFinalizer } from "./support/finalizers.js"

describe("closeScope", () => {
  it.live("keeps an interruption that comes while a finalizer runs", () =>
    Effect.gen(function*() {
      assert.isTrue(Exit.isInterrupted(yield* interruptedInFinalizer(closeScope)))
    }))

  it.live("fails as the finalizers do", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      yield* Scope.addFinalizer(scope, Effect.die("a defect"))
      assert.deepStrictEqual(yield* Effect.exit(closeScope(scope, Exit.void)), Exit.die("a defect"))
    }))

  it.live("gives the finalizers the exit", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const given: Array<unknown> = []
      yield* Scope.addFinalizerExit(scope, (exit) => Effect.sync(() => given.push(exit)))
      yield* closeScope(scope, Exit.fail("a failure"))
      assert.deepStrictEqual(given, [Exit.fail("a failure")])
    }))

  it.live("lets no interruption of the caller through before the scope is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const [begun, gate] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
      yield* Scope.addFinalizer(scope, Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(gate)))
      const closing = yield* Effect.fork(closeScope(scope, Exit.void))
      yield* Deferred.await(begun)
      closing.unsafeInterruptAsFork(FiberId.none)
      yield* Effect.yieldNow()
      assert.isNull(closing.unsafePoll())
      yield* Deferred.succeed(gate, undefined)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(closing)))
    }))
})
