import { assert, describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Fork from "../src/internal/fork.js"
import { canaries } from "./support/canaries.js"
import { canary } from "./support/canary.js"
import { everySchedule } from "./support/everySchedule.js"

/** A scope closes while a fiber is forked in it. */
const closing = ({ forkIn }: typeof Fork) =>
  Effect.gen(function*() {
    const runtime = yield* Effect.runtime<never>()
    const scope = yield* Scope.make()
    let state: "forked" | "begun" | "over" = "forked"
    const fiber = forkIn(
      runtime,
      scope,
      Effect.acquireUseRelease(
        Effect.sync(() => state = "begun"),
        () => Effect.never,
        () => Effect.sync(() => state = "over")
      )
    )
    yield* Scope.close(scope, Exit.void)
    const whenClosed = state as string
    assert.include(["forked", "over"], whenClosed)
    assert.isTrue(Exit.isInterrupted(yield* Fiber.await(fiber)))
    assert.strictEqual(state, whenClosed)
  })

describe("a fiber that synchronous code forks in a scope", () => {
  everySchedule("has ended, or never begins, when the scope has closed", closing(Fork), { preemptions: 2 })
  canary(
    canaries["late-fork"].fault,
    async () => closing(await import(/* @vite-ignore */ "../src/internal/fork.ts?canary=late-fork" as string)),
    // The fiber is never interrupted.
    { within: 100, reason: "Deadlock" }
  )

  everySchedule(
    "does not begin in a scope that is closed",
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      const fiber = Fork.forkIn(yield* Effect.runtime<never>(), scope, Effect.die("begun"))
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(fiber)))
    }),
    { preemptions: 2 }
  )

  it.effect("may close the scope itself", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const fiber = Fork.forkIn(
        yield* Effect.runtime<never>(),
        scope,
        Effect.as(Scope.close(scope, Exit.void), "closed")
      )
      assert.strictEqual(yield* Fiber.join(fiber), "closed")
    }))

  it.effect("can be interrupted, even if the runtime comes from an uninterruptible region", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const runtime = yield* Effect.uninterruptible(Effect.runtime<never>())
      const fiber = Fork.forkIn(runtime, scope, Effect.never)
      yield* Effect.yieldNow()
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(fiber)))
    }))

  it.effect("is removed from the scope when it has ended, or was interrupted before it began", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { finalizers } = (scope as unknown as { readonly state: { readonly finalizers: Map<unknown, unknown> } })
        .state
      const runtime = yield* Effect.runtime<never>()
      const ended = Fork.forkIn(runtime, scope, Effect.void)
      const interrupted = Fork.forkIn(runtime, scope, Effect.never)
      interrupted.unsafeInterruptAsFork(interrupted.id())
      assert.strictEqual(finalizers.size, 2)
      yield* Fiber.awaitAll([ended, interrupted])
      assert.strictEqual(finalizers.size, 0)
    }))

  it.effect("has the context of the runtime", () =>
    Effect.gen(function*() {
      class Name extends Effect.Tag("Name")<Name, string>() {}
      const runtime = yield* Effect.provideService(Effect.runtime<Name>(), Name, "given")
      const fiber = Fork.forkIn(runtime, yield* Scope.make(), Name)
      assert.strictEqual(yield* Fiber.join(fiber), "given")
    }))
})
