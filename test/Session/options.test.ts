import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/TestClock"
import { failureOf } from "../support/exits.js"
import { upstream } from "../support/sessions.js"

describe("S16: an `expiresAt` in seconds", () => {
  const start = Date.UTC(2026, 0, 1)
  const seconds = start / 1000 + 3600

  it.scoped("is refused with a hint, and the token is kept to renew from", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(start)
      const up = upstream()
      let unit = 1
      const session = yield* Session.make({ ...up, expiresAt: () => seconds * unit })
      const failure = failureOf(yield* Effect.exit(session.current))
      assert.instanceOf(failure, InvalidOptions)
      assert.deepInclude(failure, { option: "expiresAt", value: seconds })
      assert.include((failure as InvalidOptions).message, "seconds")
      unit = 1000
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.current).value, "v0")
      assert.deepStrictEqual(up.calls, ["acquire"])
      const refused = failureOf(
        yield* Effect.exit(
          Session.make({ acquire: Effect.succeed("token"), initial: "saved", expiresAt: () => seconds })
        )
      )
      assert.include(refused.message, "seconds")
    }))

  it.scoped("is not suspected if the time has simply passed: 0 and less, the last ten years, a DateTime", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(start)
      for (const expired of [0, -1, start - 9 * 365 * 86_400_000, DateTime.unsafeMake(1)]) {
        const up = upstream()
        const session = yield* Session.make({ ...up, expiresAt: (value) => value === "v0" ? expired : undefined })
        assert.strictEqual((yield* session.current).value, "v1")
      }
    }))
})

describe("callers without types", () => {
  it.scoped("see no value in the error of an `expiresAt` that gives no time", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({
        acquire: Effect.succeed({ access: "canary" }),
        expiresAt: ((token: unknown) => token) as () => number
      })
      const error = failureOf(yield* Effect.exit(session.current))
      assert.deepInclude(error, { _tag: "InvalidOptions", option: "expiresAt", value: "<object>" })
    }))

  it.scoped("get the current generation for one that is none", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ acquire: Effect.succeed("token") })
      assert.strictEqual((yield* session.refresh(undefined as never)).value, "token")
    }))
})

describe("invalid options", () => {
  const acquire = Effect.succeed("token")
  const nonsense: ReadonlyArray<[string, Partial<Session.Options<string>>]> = [
    ["maxAge", { maxAge: 0 }],
    ["maxAge", { maxAge: NaN }],
    ["maxAge", { maxAge: -1 }],
    ["maxAge", { maxAge: "1 fortnight" as "1 day" }],
    ["refreshAhead", { refreshAhead: -5 }],
    ["refreshAhead", { refreshAhead: NaN }],
    ["timeout", { timeout: 0 }],
    ["timeout", { timeout: NaN }],
    ["timeout", { timeout: "25 days" }],
    ["lateness", { lateness: -1 }],
    ["lateness", { lateness: NaN }],
    ["lateness", { lateness: "a while" as "1 day" }],
    ["cooldown", { cooldown: -1 }],
    ["cooldown", { cooldown: Infinity }],
    ["budget.refreshes", { budget: { refreshes: 0, within: "1 minute" } }],
    ["budget.refreshes", { budget: { refreshes: 1.5, within: "1 minute" } }],
    ["budget.refreshes", { budget: { refreshes: NaN, within: "1 minute" } }],
    ["budget.within", { budget: { refreshes: 5, within: 0 } }],
    ["budget.within", { budget: { refreshes: 5, within: NaN } }]
  ]
  for (const [option, options] of nonsense) {
    it.scoped(`are refused by InvalidOptions: ${option} ${JSON.stringify(options)}`, () =>
      Effect.gen(function*() {
        const failure = failureOf(yield* Effect.exit(Session.make({ acquire, ...options })))
        assert.instanceOf(failure, InvalidOptions)
        assert.strictEqual(failure.option, option)
        assert.include(failure.message, option)
      }))
  }

  for (
    const [what, garbage] of [
      ["NaN", () => NaN],
      ["a text", () => "tomorrow" as unknown as number],
      ["an invalid date", () => new Date(NaN) as unknown as number],
      ["an exception", (): number => {
        throw new TypeError("a secret")
      }]
    ] as const
  ) {
    it.scoped(`an expiry that is ${what} fails the refresh with InvalidOptions; the token is kept to renew from`, () =>
      Effect.gen(function*() {
        const up = upstream()
        let broken = true
        const session = yield* Session.make({ ...up, expiresAt: () => broken ? garbage() : undefined })
        const failure = failureOf(yield* Effect.exit(session.current))
        assert.instanceOf(failure, InvalidOptions)
        assert.strictEqual((failure as InvalidOptions).option, "expiresAt")
        assert.notInclude((failure as InvalidOptions).message, "secret")
        yield* TestClock.adjust("1 second")
        yield* Effect.exit(session.current)
        broken = false
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* session.current).value, "v1")
        assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      }))
  }

  it.scoped("an `initial` with such an expiry is refused by `make`", () =>
    Effect.gen(function*() {
      const failure = failureOf(yield* Effect.exit(Session.make({ acquire, initial: "saved", expiresAt: () => NaN })))
      assert.strictEqual(failure.option, "expiresAt")
    }))
})
