/**
 * Waiting for other processes.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import { Waiters } from "../waiters.js"
import type { Parts } from "./parts.js"

/**
 * Waits for a notice, unless one has arrived since `heard` notices were counted. It waits at most `longest`
 * milliseconds, minus a random part, so that the processes of a fleet do not all read the row together.
 */
export const waitForNews = <A, E>({ memory, news }: Parts<A, E>, heard: number, longest: number): Effect.Effect<void> =>
  Effect.flatMap(Random.next, (random) =>
    Waiters.until(() => memory.heard > heard ? Exit.void : undefined, news).pipe(
      Effect.timeoutOption(Math.max(1, longest * (0.5 + random / 2))),
      Effect.asVoid
    ))
