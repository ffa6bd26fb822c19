import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { held, Refused, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("end", () => {
  it.scoped("forgets the value, revokes it, and the next `current` signs in again", () =>
    Effect.gen(function*() {
      const up = upstream()
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...up, onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      const first = yield* session.current
      yield* session.end
      assert.deepStrictEqual(revoked, ["v0"])
      assert.strictEqual((yield* session.status)._tag, "Idle")
      const second = yield* session.current
      assert.deepInclude(second, { number: 1, value: "v1" })
      assert.strictEqual(yield* session.refresh(first), second)
      assert.deepStrictEqual(up.calls, ["acquire", "acquire"])
    }))

  it.scoped("revokes the value and releases its resources, however early its caller is interrupted", () =>
    Effect.gen(function*() {
      let ends = 0
      const revoked: Array<string> = []
      const released: Array<string> = []
      const acquired = Effect.acquireRelease(
        Effect.sync(() => `v${ends}`),
        (value) => Effect.sync(() => released.push(value))
      )
      const session = yield* Session.make({
        acquire: acquired,
        onEnd: (value) => Effect.sync(() => revoked.push(value))
      })
      while (ends < 40) {
        yield* session.current
        ends++
        // A fiber can be interrupted where it yields: here after every 20 operations, of which some come before.
        const before = Effect.forEach(Array.from({ length: ends }), () => Effect.void, { discard: true })
        const ending = yield* Effect.fork(Effect.withMaxOpsBeforeYield(Effect.zipRight(before, session.end), 20))
        while (ending.unsafePoll() === null && (yield* session.status)._tag !== "Idle") yield* Effect.yieldNow()
        yield* Fiber.interrupt(ending)
        yield* settle
        if ((yield* session.status)._tag !== "Idle") yield* session.end
      }
      const all = Array.from({ length: ends }, (_, n) => `v${n}`)
      assert.deepStrictEqual([revoked, released], [all, all])
    }))

  it.scoped("does nothing if there is no value to forget", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...upstream(), onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      yield* session.end
      yield* session.end
      assert.deepStrictEqual(revoked, [])
    }))

  it.scoped("detaches a renewal in flight: its waiters get SessionEnded, its value is revoked unseen", () =>
    Effect.gen(function*() {
      const up = upstream()
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...up, onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("late"))
      up.next(renewal.answer)
      const waiting = yield* Effect.fork(many(20, session.refresh(stale)))
      yield* renewal.started
      yield* settle
      yield* session.end
      for (const exit of yield* Fiber.join(waiting)) assert.strictEqual(failureOf(exit)._tag, "SessionEnded")
      assert.deepStrictEqual(revoked, ["v0"])
      assert.strictEqual((yield* session.current).value, "v1")
      yield* renewal.release
      yield* settle
      assert.deepStrictEqual(revoked, ["v0", "late"])
      assert.strictEqual((yield* session.current).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire"])
    }))

  it.scoped("continues revoking when its caller is interrupted, and a second `end` does not revoke twice", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...upstream(),
        onEnd: (value) => Effect.zipRight(Effect.sleep("1 second"), Effect.sync(() => revoked.push(value)))
      })
      yield* session.current
      const ending = yield* Effect.fork(session.end)
      yield* settle
      yield* session.end
      yield* Fiber.interrupt(ending)
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.deepStrictEqual(revoked, ["v0"])
    }))

  it.effect("continues revoking when the session is closed meanwhile", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...upstream(),
        onEnd: (value) => Effect.zipRight(Effect.sleep("1 second"), Effect.sync(() => revoked.push(value)))
      }).pipe(Scope.extend(scope))
      yield* session.current
      yield* Effect.fork(session.end)
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(revoked, ["v0"])
    }))

  it.scoped("ends the cooldown of a failure", () =>
    Effect.gen(function*() {
      const up = upstream()
      up.next(Effect.fail(new Refused("password")))
      const session = yield* Session.make(up)
      yield* Effect.exit(session.current)
      yield* session.end
      assert.strictEqual((yield* session.current).value, "v0")
    }))

  it.scoped("does not give the value of a detached renewal to `onRenewed`", () =>
    Effect.gen(function*() {
      const up = upstream()
      const stored: Array<string> = []
      const session = yield* Session.make({ ...up, onRenewed: ({ value }) => Effect.sync(() => stored.push(value)) })
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("late"))
      up.next(renewal.answer)
      yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* renewal.started
      yield* session.end
      yield* session.current
      yield* renewal.release
      yield* settle
      assert.deepStrictEqual(stored, ["v0", "v1"])
    }))

  it.scoped("during a write of `onRenewed`: the next sign-in is written after it, and stays written", () =>
    Effect.gen(function*() {
      const up = upstream()
      const log: Array<string> = []
      const slow = yield* Deferred.make<void>()
      let stored: string | undefined
      const session = yield* Session.make({
        ...up,
        onRenewed: ({ value }) =>
          Effect.gen(function*() {
            log.push(`write ${value}`)
            if (value === "v1") yield* Deferred.await(slow)
            stored = value
            log.push(`written ${value}`)
          }),
        onEnd: (value) =>
          Effect.sync(() => {
            log.push(`revoke ${value}`)
            if (stored === value) stored = undefined
          })
      })
      yield* Effect.fork(Effect.exit(session.refresh(yield* session.current)))
      yield* settle
      yield* session.end
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* Deferred.succeed(slow, undefined)
      assert.strictEqual((yield* Fiber.join(asking)).value, "v2")
      yield* settle
      assert.strictEqual(stored, "v2")
      assert.deepStrictEqual(log.filter((line) => !line.includes("v0")), [
        "write v1",
        "written v1",
        ...log.slice(-3)
      ])
      assert.deepStrictEqual(new Set(log.slice(-3)), new Set(["revoke v1", "write v2", "written v2"]))
    }))

  for (
    const [how, write] of [
      ["fails", Effect.fail(new Refused("disk full"))],
      ["dies", Effect.die("boom")],
      ["hangs until it is cut", Effect.never]
    ] as const
  ) {
    it.scoped(`during a write that ${how} does not keep the next sign-in from being written`, () =>
      Effect.gen(function*() {
        const cue = yield* Deferred.make<void>()
        const stored: Array<string> = []
        const session = yield* Session.make({
          ...upstream(),
          timeout: "10 seconds",
          onRenewed: ({ value }) =>
            value === "v1" ? Effect.zipRight(Deferred.await(cue), write) : Effect.sync(() => stored.push(value))
        })
        yield* Effect.fork(Effect.exit(session.refresh(yield* session.current)))
        yield* settle
        yield* session.end
        const asking = yield* Effect.fork(Effect.exit(session.current))
        yield* settle
        yield* Deferred.succeed(cue, undefined)
        yield* settle
        for (let second = 0; second < 21; second++) yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* session.current).value, "v2")
        yield* Fiber.join(asking)
        assert.deepStrictEqual(stored, ["v0", "v2"])
      }))
  }

  it.scoped("gives no number twice, not even one that only `onRenewed` has seen", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<Session.Generation<string>> = []
      const session = yield* Session.make({
        ...up,
        cooldown: 0,
        expiresAt: (value) => value === "v1" ? 10_000 : Infinity,
        onRenewed: (generation) =>
          Effect.suspend(() => {
            seen.push(generation)
            return generation.value === "v1" ? Effect.fail(new Refused("disk full")) : Effect.void
          })
      })
      yield* Effect.exit(session.refresh(yield* session.current))
      yield* TestClock.adjust("10 seconds")
      yield* session.refresh(yield* session.current)
      yield* session.end
      yield* Effect.exit(session.current)
      const { calls } = up
      const asked = calls.length
      for (const generation of seen.slice(0, -1)) yield* session.refresh(generation)
      assert.strictEqual(calls.length, asked)
      const numbers = seen.map(({ number }) => number)
      assert.deepStrictEqual(numbers, [...new Set(numbers)])
    }))

  it.scoped("makes the generation of a detached renewal a stale one: refreshing it renews nothing", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<Session.Generation<string>> = []
      const session = yield* Session.make({
        ...up,
        onRenewed: (generation) =>
          Effect.suspend(() => {
            seen.push(generation)
            return generation.value === "v1" ? Effect.sleep("1 second") : Effect.void
          })
      })
      yield* Effect.fork(Effect.exit(session.refresh(yield* session.current)))
      yield* settle
      yield* session.end
      const asking = yield* Effect.fork(session.current)
      yield* TestClock.adjust("1 second")
      const signedIn = yield* Fiber.join(asking)
      assert.deepStrictEqual(seen.map(({ number }) => number), [0, 1, 2])
      assert.strictEqual(yield* session.refresh(seen[1]!), signedIn)
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire"])
    }))

  it.scoped("releases and revokes the other values when `onEnd` dies for one", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      let fail = false
      const session = yield* Session.make({
        acquire: Effect.acquireRelease(Effect.succeed("v0"), () => Effect.sync(() => log.push("release v0"))),
        renew: () => Effect.acquireRelease(Effect.succeed("v1"), () => Effect.sync(() => log.push("release v1"))),
        onRenewed: () => fail ? Effect.fail("disk full") : Effect.void,
        onEnd: (value) => {
          log.push(`revoke ${value}`)
          if (value === "v0") throw new Error("boom")
          return Effect.void
        }
      })
      const first = yield* session.current
      fail = true
      yield* Effect.exit(session.refresh(first))
      const exit = yield* Effect.exit(session.end)
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      assert.deepStrictEqual(log, ["revoke v0", "revoke v1", "release v1", "release v0"])
    }))

  it.scoped("does not wait for the renewal that calls it", () =>
    Effect.gen(function*() {
      let first = true
      const session: Session.Session<string> = yield* Session.make({
        acquire: Effect.suspend(() => first ? (first = false, Effect.as(session.end, "lost")) : Effect.succeed("token"))
      })
      assert.strictEqual(failureOf(yield* Effect.exit(session.current))._tag, "SessionEnded")
      assert.strictEqual((yield* session.current).value, "token")
    }))
})
