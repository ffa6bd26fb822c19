/**
 * Stragglers: callers that keep one generation of the session while the others get newer ones, and come back with it
 * seconds later. A session that forgets the successor of an old generation would renew again for them.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { chance } from "../chance.js"
import type { Options } from "../options.js"
import { ApiSession } from "./client.js"

export interface Stragglers {
  /** Ends when each straggler has come back at least once and the storm is over, or `patience` milliseconds after. */
  readonly run: (patience: number) => Effect.Effect<void, never, ApiSession>
  readonly tally: Effect.Effect<Tally>
}

export interface Tally {
  /** How often a straggler has come back with a generation that the session had replaced. */
  readonly cameBack: number
  /** In milliseconds: the shortest time for which a straggler held the generation. */
  readonly shortest: number
  /** How often a straggler was given its own generation, or an older one. */
  readonly givenOld: number
}

const stragglers = 5

export const make = ({ seconds, seed }: Options): Stragglers => {
  const luck = chance(seed, "stragglers")
  const tally = { cameBack: 0, shortest: Infinity, givenOld: 0 }

  const straggle = Effect.gen(function*() {
    const session = yield* ApiSession
    const held = yield* session.current
    const since = yield* Clock.currentTimeMillis
    yield* Effect.sleep(luck.between(4000, 6000))
    yield* Effect.repeat(session.current, {
      until: ({ number }) => number > held.number,
      schedule: Schedule.spaced("50 millis")
    })
    tally.shortest = Math.min(tally.shortest, (yield* Clock.currentTimeMillis) - since)
    const given = yield* session.refresh(held)
    tally.cameBack++
    if (given.number <= held.number) tally.givenOld++
  }).pipe(
    // Failed renewals are judged by the results of the crowd.
    Effect.ignore
  )

  return {
    run: Effect.fnUntraced(function*(patience) {
      const endsAt = (yield* Clock.currentTimeMillis) + seconds * 1000
      const isOver = Effect.map(Clock.currentTimeMillis, (now) => now >= endsAt)
      yield* Effect.replicateEffect(
        Effect.suspend(() => Effect.delay(Effect.repeat(straggle, { until: () => isOver }), luck.between(0, 1000))),
        stragglers,
        { concurrency: "unbounded", discard: true }
      ).pipe(
        Effect.timeoutOption(seconds * 1000 + patience)
      )
    }),
    tally: Effect.sync(() => tally)
  }
}
