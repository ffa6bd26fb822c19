// A line that must not compile is refused by `@ts-expect-error` below.
// @effect-diagnostics missingEffectContext:off
// @effect-diagnostics missingEffectError:off
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { failureOf } from "../support/exits.js"
import { Refused } from "../support/sessions.js"

class ByTag extends Context.Tag("test/ByTag")<ByTag, Session.Session<string, Refused>>() {
  /** No `make` of a tag is taken for that of an `Effect.Service`. */
  static readonly make = Session.make({ acquire: Effect.succeed("other") })
}

class ByService extends Effect.Service<ByService>()("test/ByService", {
  scoped: Session.make<string, Refused>({ acquire: Effect.succeed("its own") })
}) {
  get nameOfCurrent() {
    return Effect.map(this.current, ({ value }) => `named ${value}`)
  }
}

class Other extends Context.Tag("test/Other")<Other, string>() {}

describe("the layer of a session", () => {
  it.effect("provides a `Context.Tag`", () =>
    Effect.gen(function*() {
      const session = yield* ByTag
      assert.isTrue(Session.isSession(session))
      assert.strictEqual((yield* session.current).value, "token")
    }).pipe(Effect.provide(Session.layer(ByTag, { acquire: Effect.succeed("token") }))))

  it.effect("provides an `Effect.Service`: the service is an instance of the class, a new one for each layer", () =>
    Effect.gen(function*() {
      const using = Effect.gen(function*() {
        const session = yield* ByService
        assert.instanceOf(session, ByService)
        assert.isTrue(Session.isSession(session))
        assert.strictEqual(session.pipe((self) => self), session)
        assert.strictEqual(yield* Session.use(session, Effect.succeed), (yield* session.current).value)
        return yield* session.nameOfCurrent
      })
      const named = (layer: Layer.Layer<ByService, InvalidOptions>) => Effect.provide(using, layer)
      const layerOf = (token: string) => Session.layer(ByService, { acquire: Effect.succeed(token) })
      assert.strictEqual(yield* named(layerOf("one")), "named one")
      assert.strictEqual(yield* named(layerOf("two")), "named two")
      assert.strictEqual(yield* named(ByService.Default), "named its own")
    }))

  it.effect("closes the session with its scope", () =>
    Effect.gen(function*() {
      const session = yield* Effect.provide(ByTag, Session.layer(ByTag, { acquire: Effect.succeed("token") }))
      assert.instanceOf(failureOf(yield* Effect.exit(session.current)), Session.SessionClosed)
    }))

  it.effect("fails with InvalidOptions if the options are invalid", () =>
    Effect.gen(function*() {
      const built = Effect.scoped(Layer.build(Session.layer(ByTag, { acquire: Effect.succeed("token"), timeout: -1 })))
      assert.instanceOf(failureOf(yield* Effect.exit(built)), InvalidOptions)
    }))

  it("requires what its options require, except the scope", () => {
    const layer = Session.layer(ByTag, {
      acquire: Effect.acquireRelease(Other, () => Effect.void),
      onRenewed: () => Effect.fail(new Refused("disk full"))
    })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<ByTag, InvalidOptions, Other>>()
  })

  it("does not compile for a tag of another service", () => {
    const compiles = () => {
      // @ts-expect-error the session's value is a number
      Session.layer(ByTag, { acquire: Effect.succeed(1) })
      // @ts-expect-error the tag's session never fails so
      Session.layer(ByTag, { acquire: Effect.fail("otherwise") })
      // @ts-expect-error the tag's service is no session
      Session.layer(Other, { acquire: Effect.succeed("token") })
      // @ts-expect-error the session's value is a number
      Session.layer(ByService, { acquire: Effect.succeed(1) })
    }
    assert.isFunction(compiles)
  })
})
