import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Refused, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("changes", () => {
  it.scoped("gives the current generation first, then each one that follows", () =>
    Effect.gen(function*() {
      const session = yield* Session.make(upstream())
      yield* session.current
      const seen: Array<number> = []
      const reading = yield* Effect.fork(
        Stream.runForEach(Session.changes(session), ({ number }) => Effect.sync(() => seen.push(number)))
      )
      yield* settle
      for (let i = 0; i < 3; i++) {
        yield* session.refresh(yield* session.current)
        yield* settle
      }
      assert.deepStrictEqual(seen, [0, 1, 2, 3])
      yield* Fiber.interrupt(reading)
    }))

  it.scoped("acquires nothing, and waits for the first generation", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const first = yield* Effect.fork(Stream.runHead(Session.changes(session)))
      yield* settle
      assert.deepStrictEqual(up.calls, [])
      yield* session.current
      assert.strictEqual(Option.getOrThrow(yield* Fiber.join(first)).value, "v0")
    }))

  it.scoped("lets a slow reader miss generations, but never the latest", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ ...upstream(), budget: { refreshes: 1000, within: "1 minute" } })
      yield* session.current
      const gate = yield* Deferred.make<void>()
      const seen: Array<number> = []
      yield* Effect.fork(Stream.runForEach(Session.changes(session), ({ number }) =>
        Effect.zipRight(
          Effect.sync(() => seen.push(number)),
          Deferred.await(gate)
        )))
      yield* settle
      for (let i = 0; i < 100; i++) {
        yield* session.refresh(yield* session.current)
      }
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.strictEqual(seen[0], 0)
      assert.strictEqual(seen.at(-1), 100)
      assert.isBelow(seen.length, 5)
    }))

  it.scoped("gives a slow reader no generation that the session has forgotten meanwhile", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, cooldown: 0, fatal: ({ why }: Refused) => why === "invalid_grant" })
      yield* session.current
      const next = yield* Stream.toPull(Session.changes(session))
      const read = Effect.map(Effect.orDie(next), (chunk) => Chunk.toArray(chunk).map(({ value }) => value))
      assert.deepStrictEqual(yield* read, ["v0"])
      yield* session.refresh(yield* session.current)
      yield* session.end
      yield* session.current
      assert.deepStrictEqual(yield* read, ["v2"])
      const dead = yield* session.refresh(yield* session.current)
      up.next(Effect.fail(new Refused("invalid_grant")), Effect.fail(new Refused("down")))
      yield* Effect.exit(session.refresh(dead))
      const reading = yield* Effect.fork(read)
      yield* settle
      assert.isNull(reading.unsafePoll())
      yield* session.current
      assert.deepStrictEqual(yield* Fiber.join(reading), ["v4"])
    }))

  it.effect("ends when the session closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const session = yield* Session.make(upstream()).pipe(Scope.extend(scope))
      yield* session.current
      const reading = yield* Effect.fork(Stream.runCollect(Session.changes(session)))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(Chunk.size(yield* Fiber.join(reading)), 1)
    }))
})
