import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S6: closing the scope", () => {
  it.effect("interrupts the renewal in flight and fails its waiters and later callers with SessionClosed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      let interrupted = false
      const started = yield* Deferred.make<void>()
      const session = yield* Session.make({
        acquire: Deferred.succeed(started, undefined).pipe(
          Effect.zipRight(Effect.never),
          Effect.onInterrupt(() => Effect.sync(() => interrupted = true))
        )
      }).pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(many(20, session.current))
      yield* Deferred.await(started)
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(interrupted)
      for (const exit of yield* Fiber.join(waiting)) assert.strictEqual(failureOf(exit)._tag, "SessionClosed")
      const stale = { number: 0, value: undefined as never, acquiredAt: 0, expiresAt: Infinity }
      for (
        const asking of [
          session.current,
          session.refresh(stale),
          Session.use(session, () => Effect.void),
          Effect.scoped(Session.scoped(session))
        ]
      ) {
        assert.strictEqual(failureOf(yield* Effect.exit(Effect.asVoid(asking)))._tag, "SessionClosed")
      }
      yield* session.end
      assert.deepStrictEqual(yield* session.status, { _tag: "Closed", refreshes: 0, failures: 0 })
      assert.isTrue(Chunk.isEmpty(yield* Stream.runCollect(Session.changes(session))))
    }))

  it.effect("answers the waiters before it waits for a renewal that takes its time to stop", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const started = yield* Deferred.make<void>()
      const session = yield* Session.make({
        acquire: Deferred.succeed(started, undefined).pipe(
          Effect.zipRight(Effect.sleep("1 minute")),
          Effect.uninterruptible
        )
      }).pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(Effect.exit(session.current))
      yield* Deferred.await(started)
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "SessionClosed")
      assert.isNull(closing.unsafePoll())
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(closing)
    }))

  it.effect("does not interrupt a caller that waits for `onEnd` or for a last release: a `use` keeps its result", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const cue = yield* Deferred.make<void>()
      const [ended, used] = yield* Effect.all([
        Session.make({ acquire: Effect.succeed("v0"), onEnd: () => Deferred.await(cue) }),
        Session.make({ acquire: Effect.acquireRelease(Effect.succeed("v0"), () => Deferred.await(cue)) })
      ]).pipe(Scope.extend(scope))
      yield* ended.current
      const ending = yield* Effect.fork(ended.end)
      const go = yield* Deferred.make<void>()
      const using = yield* Effect.fork(Session.use(used, () => Effect.as(Deferred.await(go), "answer")))
      yield* settle
      yield* used.refresh(yield* used.current)
      yield* Deferred.succeed(go, undefined)
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* settle
      yield* Deferred.succeed(cue, undefined)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(yield* Fiber.await(ending), Exit.void)
      assert.deepStrictEqual(yield* Fiber.await(using), Exit.succeed("answer"))
    }))

  it.effect("works for a session that was made in an uninterruptible region, as a layer's is", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const session = yield* Effect.uninterruptible(Session.make({ acquire: Effect.never })).pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(Effect.exit(session.current))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "SessionClosed")
    }))

  it.effect("in a scope that is closed already, makes a session that is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      const session = yield* Session.make(upstream()).pipe(Scope.extend(scope))
      assert.strictEqual(failureOf(yield* Effect.exit(session.current))._tag, "SessionClosed")
    }))
})
