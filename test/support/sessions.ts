import type * as Session from "effect-holdfast/Session"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

export class Refused {
  readonly _tag = "Refused"
  readonly why: string
  constructor(why: string) {
    this.why = why
  }
}

/** An upstream that counts its calls, and answers or fails when the test says so. */
export const upstream = () => {
  const calls: Array<string> = []
  let next = 0
  const answers: Array<Effect.Effect<string, Refused>> = []
  const answer = (call: string) =>
    Effect.suspend(() => {
      calls.push(call)
      return answers.shift() ?? Effect.succeed(`v${next++}`)
    })
  return {
    calls,
    /** The behaviour of the next calls, which otherwise succeed immediately. */
    next: (...effects: ReadonlyArray<Effect.Effect<string, Refused>>) => answers.push(...effects),
    acquire: answer("acquire"),
    renew: (value: string) => answer(`renew ${value}`)
  }
}

/** An answer that waits for its cue. */
export const held = (effect: Effect.Effect<string, Refused>) =>
  Effect.map(Effect.all([Deferred.make<void>(), Deferred.make<void>()]), ([started, cue]) => ({
    answer: Effect.zipRight(Deferred.succeed(started, undefined), Effect.zipRight(Deferred.await(cue), effect)),
    started: Deferred.await(started),
    release: Deferred.succeed(cue, undefined)
  }))

export const valuesOf = <A, E>(exits: ReadonlyArray<Exit.Exit<Session.Generation<A>, E>>) =>
  exits.map((exit) => Exit.isSuccess(exit) ? exit.value.value : String(exit))

/** The test's clock for sleeps and for the monotonic time, with a time of day that the test sets. */
export const settableTimeOfDay = Effect.map(Effect.clock, (clock) => {
  const timeOfDay = { offset: 0 }
  const now = () => clock.unsafeCurrentTimeMillis() + timeOfDay.offset
  return {
    timeOfDay,
    /** The clock for `make`, which gives it to the session. */
    withTimeOfDay: Effect.withClock({
      [Clock.ClockTypeId]: Clock.ClockTypeId,
      unsafeCurrentTimeMillis: now,
      currentTimeMillis: Effect.sync(now),
      unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
      currentTimeNanos: clock.currentTimeNanos,
      sleep: (duration) => clock.sleep(duration)
    })
  }
})
