import { describe, expectTypeOf, it } from "@effect/vitest"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"

describe("the types", () => {
  it("of the errors are the union of those of the effects, and no more", () => {
    const acquire = Effect.succeed("token") as Effect.Effect<string, "E1">
    const renew = (_: string) => Effect.succeed("token") as Effect.Effect<string, "E2">
    expectTypeOf(Session.make({ acquire })).toEqualTypeOf<
      Effect.Effect<Session.Session<string, "E1">, InvalidOptions, Scope.Scope>
    >()
    expectTypeOf(
      Session.make({ acquire, renew, retry: Schedule.recurs(3), cooldown: Schedule.spaced(1000), fatal: () => false })
    ).toEqualTypeOf<Effect.Effect<Session.Session<string, "E1" | "E2">, InvalidOptions, Scope.Scope>>()
    expectTypeOf(Session.make({ acquire: Effect.succeed(1), retry: Schedule.recurs(3) })).toEqualTypeOf<
      Effect.Effect<Session.Session<number, never>, InvalidOptions, Scope.Scope>
    >()
  })

  it("are inferred, whether `fatal` is written before `renew` or after it", () => {
    class Failed {
      readonly code = "invalid_grant"
    }
    const acquire = Effect.succeed({ refresh: "r" }) as Effect.Effect<{ readonly refresh: string }, Failed>
    const exchange = (_: string) => acquire
    const before = Session.make({
      acquire,
      fatal: (error) => error.code === "invalid_grant",
      renew: (tokens) => exchange(tokens.refresh)
    })
    const after = Session.make({
      acquire,
      renew: (tokens) => exchange(tokens.refresh),
      fatal: (error) => error.code === "invalid_grant"
    })
    expectTypeOf(before).toEqualTypeOf(after)
    expectTypeOf(before).toEqualTypeOf<
      Effect.Effect<Session.Session<{ readonly refresh: string }, Failed>, InvalidOptions, Scope.Scope>
    >()
    const map = SessionMap.make({
      lookup: (_: string) => ({
        acquire,
        fatal: (error: Failed) => error.code === "invalid_grant",
        renew: (tokens: { readonly refresh: string }) => exchange(tokens.refresh)
      })
    })
    expectTypeOf(map).toEqualTypeOf<
      Effect.Effect<
        SessionMap.SessionMap<string, { readonly refresh: string }, Failed>,
        InvalidOptions,
        Scope.Scope
      >
    >()
  })
})
