import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Scope from "effect/Scope"
import { addFinalizer, closeScope, untilClosed } from "../src/internal/closeScope.js"
import { anotherFinalizer, interruptedDuring, interruptedInFinalizer } from "./support/finalizers.js"

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

describe("untilClosed", () => {
  it.live("waits for the fiber and gives its exit", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const closing = yield* Effect.forkDaemon(Effect.zipRight(Deferred.await(gate), Effect.die("a defect")))
      const waiting = yield* Effect.fork(untilClosed(() => closing))
      yield* Effect.yieldNow()
      assert.isNull(waiting.unsafePoll())
      yield* Deferred.succeed(gate, undefined)
      assert.deepStrictEqual(yield* Fiber.join(waiting), Exit.die("a defect"))
    }))

  it.live("ends when the caller is interrupted meanwhile, even one that was interrupted before", () =>
    Effect.gen(function*() {
      const [begun, gate] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
      const closing = yield* Effect.forkDaemon(Deferred.await(gate))
      const caller = yield* Effect.fork(
        Effect.onInterrupt(
          Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never),
          () => untilClosed(() => closing)
        )
      )
      yield* Deferred.await(begun)
      caller.unsafeInterruptAsFork(FiberId.none)
      yield* Effect.sleep("10 millis")
      assert.isNull(caller.unsafePoll())
      caller.unsafeInterruptAsFork(FiberId.none)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(caller)))
      assert.isNull(closing.unsafePoll())
      yield* Deferred.succeed(gate, undefined)
    }))
})

describe("addFinalizer", () => {
  it.live("keeps an interruption that comes while the finalizer runs", () =>
    Effect.gen(function*() {
      const exit = yield* interruptedDuring((finalizer) =>
        Effect.scoped(Effect.zipRight(addFinalizer(() => finalizer), anotherFinalizer))
      )
      assert.isTrue(Exit.isInterrupted(exit))
    }))

  it.live("gives the finalizer the exit, and runs it to its end though its fiber is interrupted", () =>
    Effect.gen(function*() {
      const [begun, gate] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
      const given: Array<unknown> = []
      const scope = yield* Scope.make()
      yield* Scope.extend(
        addFinalizer((exit) =>
          Deferred.succeed(begun, undefined).pipe(
            Effect.zipRight(Deferred.await(gate)),
            Effect.zipRight(Effect.sync(() => given.push(exit)))
          )
        ),
        scope
      )
      const closing = yield* Effect.fork(Scope.close(scope, Exit.fail("a failure")))
      yield* Deferred.await(begun)
      closing.unsafeInterruptAsFork(FiberId.none)
      yield* Effect.yieldNow()
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.await(closing)
      assert.deepStrictEqual(given, [Exit.fail("a failure")])
    }))
})
