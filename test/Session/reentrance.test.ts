import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { amount } from "../support/form.js"
import type { Refused } from "../support/sessions.js"
import { held, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S7: a renewal that asks its own session", () => {
  const ways: ReadonlyArray<
    [string, (session: Session.Session<string, unknown>) => Effect.Effect<unknown, unknown>]
  > = [
    ["current", (session) => session.current],
    ["refresh", (session) => session.refresh({ number: 0, value: "v0", acquiredAt: 0, expiresAt: Infinity })],
    ["use", (session) => Session.use(session, Effect.succeed)],
    ["scoped", (session) => Effect.scoped(Session.scoped(session))],
    ["a child fiber", (session) => Effect.flatMap(Effect.fork(session.current), Fiber.join)],
    ["timeout", (session) => Effect.timeout(session.current, "1 minute")],
    ["race", (session) => Effect.raceFirst(session.current, Effect.never)],
    ["parallel children", (session) => Effect.all([session.current, session.current], { concurrency: 2 })],
    ["a daemon that it waits for", (session) => Effect.flatMap(Effect.forkDaemon(session.current), Fiber.join)],
    ["many layers", (session) => {
      let effect: Effect.Effect<unknown, unknown> = session.current
      for (let i = 0; i < 50; i++) effect = Effect.scoped(Effect.timeout(Effect.disconnect(effect), "1 minute"))
      return effect
    }]
  ]
  for (const [name, ask] of ways) {
    it.scoped(`by ${name} fails immediately with ReentrantRefresh`, () =>
      Effect.gen(function*() {
        let first = true
        const session: Session.Session<string, unknown> = yield* Session.make<string, unknown, never, unknown, never>({
          acquire: Effect.suspend(() =>
            first ? (first = false, Effect.succeed("v0")) : Effect.as(ask(session), "never")
          ),
          timeout: "1 hour"
        })
        const stale = yield* session.current
        const exits = yield* many(5, session.refresh(stale))
        for (const exit of exits) {
          assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)
        }
      }))

    it.scoped(`by ${name} fails with ReentrantRefresh in the first sign-in and in the background`, () =>
      Effect.gen(function*() {
        const seen: Array<unknown> = []
        let signedIn = false
        const session: Session.Session<string, unknown> = yield* Session.make<string, unknown, never, unknown, never>({
          acquire: Effect.suspend(() =>
            Effect.exit(ask(session)).pipe(
              Effect.map((exit) => {
                seen.push(failureOf(exit))
                return signedIn ? "v1" : "v0"
              })
            )
          ),
          maxAge: "10 minutes",
          refreshAhead: "2 minutes"
        })
        assert.strictEqual((yield* session.current).value, "v0")
        signedIn = true
        yield* TestClock.adjust("9 minutes")
        assert.strictEqual((yield* session.current).value, "v0")
        yield* settle
        assert.strictEqual((yield* session.current).value, "v1")
        assert.strictEqual(seen.length, 2)
        for (const error of seen) assert.instanceOf(error, Session.ReentrantRefresh)
      }))
  }

  it.scoped("does not wait for the `end` of another session whose `onEnd` waits for that renewal", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const child = yield* Session.make({
        acquire: Effect.succeed("child"),
        onEnd: () =>
          Effect.map(Effect.suspend(() => session.current), ({ value }) => seen.push(value)).pipe(Effect.orDie)
      })
      const session: Session.Session<number, Session.SessionError> = yield* Session.make({
        acquire: Effect.succeed(0),
        renew: (number: number) => Effect.as(child.end, number + 1),
        timeout: "1 hour"
      })
      yield* child.current
      const next = yield* Effect.flatMap(session.current, session.refresh)
      assert.strictEqual(next.value, 1)
      yield* settle
      assert.deepStrictEqual(seen, [1])
    }))

  it.scoped("may start a daemon that outlives it, asks the session and waits for a later renewal", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<string, unknown>()
      const later = yield* held(Effect.succeed("later"))
      let first = true
      const session: Session.Session<string, Refused> = yield* Session.make({
        acquire: Effect.suspend(() => {
          if (!first) return later.answer
          first = false
          return later.started.pipe(
            Effect.zipRight(session.current),
            Effect.map((generation) => generation.value),
            Effect.intoDeferred(asked),
            Effect.forkDaemon,
            Effect.as("token")
          )
        })
      })
      yield* Effect.fork(session.refresh(yield* session.current))
      yield* settle
      assert.isFalse(yield* Deferred.isDone(asked))
      yield* later.release
      assert.strictEqual(yield* Deferred.await(asked), "later")
    }))

  it.scoped("may catch ReentrantRefresh and go on", () =>
    Effect.gen(function*() {
      const session: Session.Session<string, never> = yield* Session.make({
        acquire: Effect.suspend((): Effect.Effect<string> =>
          session.current.pipe(Effect.map((g) => g.value), Effect.catchAll((error) => Effect.succeed(error._tag)))
        )
      })
      assert.strictEqual((yield* session.current).value, "ReentrantRefresh")
    }))
})

describe("S7: two sessions that renew through each other", () => {
  const pair = (concurrent: boolean) =>
    Effect.gen(function*() {
      const bothStarted = yield* Deferred.make<void>()
      let started = 0
      const rendezvous = Effect.suspend(() =>
        ++started === 2 || !concurrent ? Deferred.succeed(bothStarted, undefined) : Deferred.await(bothStarted)
      )
      const errors: Array<unknown> = []
      const through = (other: () => Session.Session<string, unknown>) =>
        rendezvous.pipe(
          Effect.zipRight(Effect.suspend(() => Effect.timeout(other().current, "1 minute"))),
          Effect.map((generation) => generation.value),
          Effect.tapError((error) => Effect.sync(() => errors.push(error)))
        )
      const a: Session.Session<string, unknown> = yield* Session.make({ name: "a", acquire: through(() => b) })
      const b: Session.Session<string, unknown> = yield* Session.make({ name: "b", acquire: through(() => a) })
      return { a, b, errors }
    })

  it.scoped("started by one of them: the join that closes the circle fails", () =>
    Effect.gen(function*() {
      const { a, errors } = yield* pair(false)
      const exit = yield* Effect.exit(a.current)
      assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)
      assert.strictEqual((errors[0] as Session.ReentrantRefresh)._tag, "ReentrantRefresh")
    }))

  it.scoped("started at the same time by different callers: the join that closes the circle fails", () =>
    Effect.gen(function*() {
      const { a, b } = yield* pair(true)
      const exits = yield* Effect.all([Effect.exit(a.current), Effect.exit(b.current)], { concurrency: 2 })
      for (const exit of exits) assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)
    }))

  it.scoped("are not suspected if a session asks another one after thousands of failures of that one", () =>
    Effect.gen(function*() {
      let down = true
      const inner = yield* Session.make({
        acquire: Effect.suspend(() => down ? Effect.fail("down") : Effect.succeed("up")),
        cooldown: 0
      })
      for (let i = 0; i < amount({ quick: 2_000, full: 15_000 }); i++) yield* Effect.exit(inner.current)
      down = false
      const outer = yield* Session.make({ acquire: Effect.map(inner.current, ({ value }) => value) })
      assert.strictEqual((yield* outer.current).value, "up")
    }))

  it.scoped("may be five in a circle, which is found; a chain without a circle is not taken for one", () =>
    Effect.gen(function*() {
      const sessions: Array<Session.Session<string, unknown>> = []
      for (let i = 0; i < 5; i++) {
        const next = (i + 1) % 5
        sessions.push(
          yield* Session.make({
            acquire: Effect.suspend(() => Effect.map(sessions[next]!.current, (generation) => generation.value))
          })
        )
      }
      const exits = yield* Effect.all(sessions.map((session) => Effect.exit(session.current)), {
        concurrency: "unbounded"
      })
      for (const exit of exits) assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)

      const root = yield* Session.make({ acquire: Effect.delay(Effect.succeed("root"), "1 second") })
      const through = Session.make({ acquire: Effect.map(root.current, (generation) => `by ${generation.value}`) })
      const [left, right] = [yield* through, yield* through]
      const fiber = yield* Effect.fork(Effect.all([left.current, right.current, root.current], { concurrency: 3 }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* Fiber.join(fiber)).map((g) => g.value), ["by root", "by root", "root"])
    }))
})

describe("S16: a callback that asks its own session", () => {
  it.scoped("gets ReentrantRefresh: `onEnd`, if it would sign in again", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<string> = []
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...up,
        onEnd: () =>
          Effect.map(Effect.exit(Effect.timeout(session.current, "1 minute")), (exit) => {
            seen.push(failureOf(exit)._tag)
          })
      })
      yield* session.current
      yield* session.end
      assert.deepStrictEqual([up.calls, seen, (yield* session.status)._tag], [
        ["acquire"],
        ["ReentrantRefresh"],
        "Idle"
      ])
    }))

  it.scoped("gets ReentrantRefresh: `onEnd`, if it would wait for a sign-in; it is given one that has succeeded", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<string> = []
      const cues = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...up,
        onEnd: () =>
          Effect.forEach(cues, (cue) =>
            Effect.zipRight(Deferred.await(cue), Effect.exit(session.current)).pipe(
              Effect.map((exit) => seen.push(Exit.isSuccess(exit) ? exit.value.value : failureOf(exit)._tag))
            ), { discard: true })
      })
      yield* session.current
      const ending = yield* Effect.fork(session.end)
      yield* settle
      const signIn = yield* held(Effect.succeed("anew"))
      up.next(signIn.answer)
      const asking = yield* Effect.fork(session.current)
      yield* signIn.started
      yield* Deferred.succeed(cues[0]!, undefined)
      yield* settle
      yield* signIn.release
      yield* Fiber.join(asking)
      yield* Deferred.succeed(cues[1]!, undefined)
      yield* Fiber.join(ending)
      assert.deepStrictEqual(seen, ["ReentrantRefresh", "anew"])
    }))

  it.scoped("gets ReentrantRefresh: `onEnd`, when it revokes the value of a detached renewal", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<string> = []
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...up,
        onEnd: (value) =>
          Effect.map(Effect.exit(session.current), (exit) => {
            seen.push(`${value} ${failureOf(exit)._tag}`)
          })
      })
      const renewal = yield* held(Effect.succeed("late"))
      up.next(renewal.answer)
      yield* Effect.fork(Effect.exit(session.current))
      yield* renewal.started
      yield* session.end
      yield* renewal.release
      yield* settle
      assert.deepStrictEqual([up.calls, seen], [["acquire"], ["late ReentrantRefresh"]])
    }))

  it.scoped("gets ReentrantRefresh: `onRenewed`", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...upstream(),
        onRenewed: (generation) =>
          Effect.forEach([session.current, session.refresh(generation)], (ask) =>
            Effect.map(Effect.exit(ask), (exit) => {
              seen.push(failureOf(exit)._tag)
            }), { discard: true })
      })
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual(seen, Array.from({ length: 4 }, () => "ReentrantRefresh"))
    }))

  it.scoped("may start a daemon that outlives it and asks the session", () =>
    Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      const asked = yield* Deferred.make<string, unknown>()
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...upstream(),
        onEnd: () =>
          Deferred.await(cue).pipe(
            Effect.zipRight(Effect.map(session.current, ({ value }) => value)),
            Effect.intoDeferred(asked),
            Effect.forkDaemon
          )
      })
      yield* session.current
      yield* session.end
      yield* Deferred.succeed(cue, undefined)
      assert.strictEqual(yield* Deferred.await(asked), "v1")
    }))
})
