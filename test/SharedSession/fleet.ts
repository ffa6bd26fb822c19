/** A fleet whose processes are sessions of one process, over one store whose faults the test commands. */
import type * as Session from "effect-holdfast/Session"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { settle } from "../support/settle.js"
import { type Refused, Token, tokenServer } from "../support/tokenServer.js"

type Options = Partial<SharedSession.Options<Token, typeof Token.Encoded, Refused, never, Refused>>

export type FleetSession = Session.Session<Token, Refused | SharedSession.SharedSessionError>

export const makeFleet = (options: Options & { readonly takes?: number } = {}) =>
  Effect.gen(function*() {
    const memory = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
    const counts = { reads: 0, writes: 0 }
    const faults = {
      isDown: false,
      isSilent: false,
      losesAnswers: 0,
      /** The answer to a write waits for this effect. */
      held: Effect.void as Effect.Effect<void>,
      /** The answer to a read waits for this effect. */
      heldRead: Effect.void as Effect.Effect<void>
    }
    const faulty = <A>(call: Effect.Effect<A, SessionStore.StoreError>): Effect.Effect<A, SessionStore.StoreError> =>
      Effect.suspend(() => {
        if (faults.isSilent) return Effect.never
        return faults.isDown ? down : call
      })
    const store: SessionStore.Service = {
      read: (key) => faulty(Effect.suspend(() => (counts.reads++, Effect.zipLeft(memory.read(key), faults.heldRead)))),
      compareAndSet: (key, revision, row) =>
        faulty(Effect.suspend(() => {
          counts.writes++
          const written = Effect.zipLeft(memory.compareAndSet(key, revision, row), faults.held)
          return faults.losesAnswers > 0 && faults.losesAnswers-- > 0 ? Effect.zipRight(written, down) : written
        })),
      notices: memory.notices
    }
    const server = tokenServer({ takes: options.takes ?? 100 })
    const row = Effect.map(memory.read("api"), ({ row }) => Option.getOrUndefined(row))
    return {
      server,
      counts,
      faults,
      row,
      /** Writes a row into the store without any process. */
      edit: (edit: (row: SessionStore.Row) => SessionStore.Row) =>
        Effect.flatMap(row, (found) => memory.compareAndSet("api", found!.revision, edit(found!))),
      /** Writes the row under another key without any process. */
      copyTo: (key: string) => Effect.flatMap(row, (found) => memory.compareAndSet(key, undefined, found!)),
      /** One more process. Closing its scope is its death. */
      join: (own: Options = {}): Effect.Effect<FleetSession, never, Scope.Scope> =>
        SharedSession.make<Token, typeof Token.Encoded, Refused, never, Refused>({
          key: "api",
          schema: Token,
          acquire: server.acquire,
          renew: server.renew,
          onEnd: server.onEnd,
          fatal: ({ why }) => why === "invalid_grant",
          ...options,
          ...own
        }).pipe(
          Effect.provideService(SessionStore.SessionStore, store),
          Effect.orDie
        )
    }
  })

const down = new SessionStore.StoreError({ operation: "read", store: "the test's store", cause: "down" })

export type Fleet = Effect.Effect.Success<ReturnType<typeof makeFleet>>

/** Runs the effect while the test's clock goes on, for two minutes at most: slowly first, then by the second. */
export const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Exit.Exit<A, E>, never, R> =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(Effect.exit(effect))
    for (let steps = 0; steps < 140; steps++) {
      yield* settle
      const exit = fiber.unsafePoll()
      if (exit !== null) return yield* exit
      yield* TestClock.adjust(steps < 20 ? 50 : 1000)
    }
    return yield* Effect.dieMessage("it takes more than two minutes")
  })

export const valueOf = <A, E>(exit: Exit.Exit<A, E>): A =>
  Exit.isSuccess(exit) ? exit.value : (() => {
    throw new Error(`no success: ${Cause.pretty(exit.cause)}`)
  })()

/** A token's name: the number of its sign-in, and its own number within that. */
export const nameOf = ({ value }: Session.Generation<Token>): string => `${value.family}.${value.number}`
