import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { anotherFinalizer, interruptedDuring } from "../support/finalizers.js"
import { Refused } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S10: a resource that a generation acquires in its scope", () => {
  /** A session whose values are resources; `log` records when each was opened and closed. */
  const resources = Effect.gen(function*() {
    const log: Array<string> = []
    let next = 0
    const session = yield* Session.make({
      acquire: Effect.acquireRelease(
        Effect.sync(() => {
          const value = next++
          log.push(`open ${value}`)
          return value
        }),
        (value) => Effect.sync(() => log.push(`close ${value}`))
      )
    })
    return { log, session }
  })

  it.scoped("is released when the generation has been superseded and is no longer held", () =>
    Effect.gen(function*() {
      const { log, session } = yield* resources
      const first = yield* session.current
      assert.deepStrictEqual(log, ["open 0"])
      yield* session.refresh(first)
      yield* settle
      assert.deepStrictEqual(log, ["open 0", "open 1", "close 0"])
    }))

  for (const how of ["use", "scoped"] as const) {
    it.scoped(`stays while a \`${how}\` of it goes on, and is released with the last`, () =>
      Effect.gen(function*() {
        const { log, session } = yield* resources
        const first = yield* session.current
        const cues = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
        const users = yield* Effect.forEach(cues, (cue) =>
          Effect.fork(
            how === "use"
              ? Session.use(session, () => Deferred.await(cue))
              : Effect.scoped(Effect.zipRight(Session.scoped(session), Deferred.await(cue)))
          ))
        yield* settle
        yield* session.refresh(first)
        yield* settle
        assert.deepStrictEqual(log, ["open 0", "open 1"])
        yield* Deferred.succeed(cues[0], undefined)
        yield* Fiber.join(users[0]!)
        assert.deepStrictEqual(log, ["open 0", "open 1"])
        yield* Fiber.interrupt(users[1]!)
        assert.deepStrictEqual(log, ["open 0", "open 1", "close 0"])
      }))
  }

  it.scoped("is released by `end`, after the last use", () =>
    Effect.gen(function*() {
      const { log, session } = yield* resources
      const cue = yield* Deferred.make<void>()
      const user = yield* Effect.fork(Session.use(session, () => Deferred.await(cue)))
      yield* settle
      yield* session.end
      assert.deepStrictEqual(log, ["open 0"])
      yield* Deferred.succeed(cue, undefined)
      yield* Fiber.join(user)
      assert.deepStrictEqual(log, ["open 0", "close 0"])
      yield* session.current
      yield* session.end
      assert.deepStrictEqual(log, ["open 0", "close 0", "open 1", "close 1"])
    }))

  it.effect("is released immediately when the session's scope closes, held or not", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { log, session } = yield* Scope.extend(resources, scope)
      const holding = yield* Scope.make()
      yield* Session.scoped(session).pipe(Scope.extend(holding))
      yield* session.refresh(yield* session.current)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log.slice(0, 2), ["open 0", "open 1"])
      assert.deepStrictEqual(new Set(log.slice(2)), new Set(["close 0", "close 1"]))
      yield* Scope.close(holding, Exit.void)
      assert.strictEqual(log.length, 4)
    }))

  it.scoped("is released after each try that fails, retries included", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      let tries = 0
      const session = yield* Session.make({
        acquire: Effect.gen(function*() {
          const number = tries++
          yield* Effect.acquireRelease(
            Effect.sync(() => log.push(`open ${number}`)),
            () => Effect.sync(() => log.push(`close ${number}`))
          )
          if (number < 2) return yield* Effect.fail(new Refused("try again"))
          return number
        }),
        retry: Schedule.recurs(2)
      })
      yield* session.current
      assert.deepStrictEqual(log, ["open 0", "close 0", "open 1", "close 1", "open 2"])
    }))

  for (const how of ["use", "scoped"] as const) {
    it.scoped(`stays while a \`${how}\` of it goes on, even if it is only a fiber`, () =>
      Effect.gen(function*() {
        let next = 0
        const interrupted: Array<number> = []
        const session = yield* Session.make({
          acquire: Effect.suspend(() => {
            const id = next++
            const background = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push(id)))
            return Effect.as(Effect.forkScoped(background), id)
          })
        })
        const first = yield* session.current
        const cue = yield* Deferred.make<void>()
        const user = yield* Effect.fork(
          how === "use"
            ? Session.use(session, () => Deferred.await(cue))
            : Effect.scoped(Effect.zipRight(Session.scoped(session), Deferred.await(cue)))
        )
        yield* settle
        yield* session.refresh(first)
        yield* settle
        assert.deepStrictEqual(interrupted, [])
        yield* Deferred.succeed(cue, undefined)
        yield* Fiber.join(user)
        assert.deepStrictEqual(interrupted, [0])
      }))
  }

  for (const how of ["use", "scoped"] as const) {
    it.live(`may be held last by a \`${how}\` of a fiber that it has forked: neither waits for the other`, () =>
      Effect.gen(function*() {
        const cue = yield* Deferred.make<void>()
        const [log, watchers]: [Array<string>, Array<Fiber.Fiber<void, unknown>>] = [[], []]
        const scope = yield* Scope.make()
        const session: Session.Session<number> = yield* Scope.extend(
          Session.make({
            acquire: Effect.gen(function*() {
              const id = watchers.length
              yield* Effect.addFinalizer(() => Effect.sync(() => log.push(`released ${id}`)))
              const watching = how === "use"
                ? Effect.suspend(() => Session.use(session, () => Deferred.await(cue)))
                : Effect.scoped(Effect.suspend(() => Effect.zipRight(Session.scoped(session), Deferred.await(cue))))
              // The session exists when its first value does.
              watchers.push(yield* Effect.forkScoped(Effect.zipRight(Effect.yieldNow(), Effect.orDie(watching))))
              return id
            })
          }),
          scope
        )
        const first = yield* session.current
        yield* settle
        yield* session.refresh(first)
        yield* settle
        assert.deepStrictEqual(log, [])
        yield* Deferred.succeed(cue, undefined)
        yield* settle
        assert.deepStrictEqual(log, ["released 0"])
        yield* Fiber.await(watchers[0]!)
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(log, ["released 0", "released 1"])
      }))

    it.live(`a fiber that is interrupted while what its \`${how}\` held is released ends as interrupted`, () =>
      Effect.scoped(Effect.gen(function*() {
        const finalizers: Array<Effect.Effect<void>> = []
        const session = yield* Session.make({
          acquire: Effect.as(Effect.addFinalizer(() => Effect.all(finalizers.splice(0), { discard: true })), {})
        })
        const first = yield* session.current
        const superseded = session.refresh(first)
        const exit = yield* interruptedDuring((finalizer) => {
          finalizers.push(finalizer)
          return how === "use"
            ? Session.use(session, () => superseded)
            : Effect.scoped(Effect.asVoid(Effect.all([Session.scoped(session), anotherFinalizer, superseded])))
        })
        assert.isTrue(Exit.isInterrupted(exit))
      })))
  }

  it.effect("is kept until the session closes if a `use` was the first to acquire it", () =>
    Effect.gen(function*() {
      const sessionScope = yield* Scope.make()
      const interrupted: Array<string> = []
      const session = yield* Scope.extend(Session.make({ acquire: Effect.scope }), sessionScope)
      const first = yield* session.current
      const background = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push("fiber")))
      yield* Session.use(session, (scope) =>
        Effect.gen(function*() {
          yield* Effect.forkIn(background, scope)
          yield* session.refresh(first)
          yield* settle
        }))
      assert.deepStrictEqual(interrupted, [])
      yield* Scope.close(sessionScope, Exit.void)
      assert.deepStrictEqual(interrupted, ["fiber"])
    }))

  it.scoped("fails no caller if its release dies", () =>
    Effect.gen(function*() {
      let generations = 0
      const session = yield* Session.make({
        acquire: Effect.suspend(() =>
          generations++ === 0 ? Effect.as(Effect.addFinalizer(() => Effect.die("stuck")), "v0") : Effect.succeed("v1")
        )
      })
      const first = yield* session.current
      const used = yield* Effect.exit(Session.use(session, () => session.refresh(first)))
      assert.isTrue(Exit.isSuccess(used))
      yield* settle
    }))
})
