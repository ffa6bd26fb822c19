/** One process of a fleet, bundled and started by `fleet.ts`. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { storeLayer, type StoreSettings } from "./stores.js"

export interface Settings {
  readonly store: StoreSettings
  readonly key: string
  /** The `rotatingServer` of the session. */
  readonly upstream?: string
  /** In milliseconds. */
  readonly lease?: number
  readonly timeout?: number
  /** `false`: the process hears no notices. */
  readonly hears?: boolean
  /** Base64. */
  readonly encryptWith?: string | ReadonlyArray<string>
  /** By how many milliseconds the wall clock of this process is wrong. */
  readonly clockIsWrongBy?: number
}

/** The steps of the protocol, before and after each write. */
export type Step =
  | "looked"
  | "taking"
  | "taken"
  | "presenting"
  | "presented"
  | "committing"
  | "committed"
  | "failing"
  | "failed"
  | "ending"
  | "ended"

/** At a step a process waits for ever, or stops as after SIGSTOP. */
export type Halt = "wait" | "stop"

export interface Served {
  readonly served: number
  /** How many callers got each failure, by tag and reason. */
  readonly failed: Readonly<Record<string, number>>
}

const settings = JSON.parse(process.argv[2]!) as Settings

if (settings.clockIsWrongBy !== undefined) {
  const now = Date.now
  Date.now = () => now() + settings.clockIsWrongBy!
}

// --- steps -------------------------------------------------------------------

let armed: { readonly step: Step; readonly halt: Halt } | undefined

const at = (step: Step): Effect.Effect<void> =>
  Effect.async((resume) => {
    if (armed?.step !== step) return resume(Effect.void)
    const { halt } = armed
    armed = undefined
    process.send!({ reached: step }, () => {
      if (halt === "wait") return
      process.kill(process.pid, "SIGSTOP")
      resume(Effect.void)
    })
  })

const writeOf = (row: SessionStore.Row): readonly [before: Step, after: Step] => {
  if (row.holder !== null) return ["taking", "taken"]
  if (row.error !== null) return ["failing", "failed"]
  return row.dead ? ["ending", "ended"] : ["committing", "committed"]
}

let operations = 0

const watched = ({ compareAndSet, notices, read }: SessionStore.Service): SessionStore.Service => ({
  read: (key) => {
    operations++
    return Effect.tap(read(key), () => at("looked"))
  },
  compareAndSet: (key, revision, row) => {
    operations++
    const [before, after] = writeOf(row)
    return Effect.zipRight(at(before), Effect.tap(compareAndSet(key, revision, row), () => at(after)))
  },
  notices: settings.hears === false ? Stream.never : notices
})

// --- the session -------------------------------------------------------------

class Refused extends Data.TaggedError("Refused")<{ readonly why: string }> {}

const Token = Schema.Struct({ access: Schema.String, refresh: Schema.String })
type Token = typeof Token.Type

class TokenSession extends Context.Tag("test/TokenSession")<
  TokenSession,
  Session.Session<Token, Refused | SharedSession.SharedSessionError>
>() {
  static readonly layer = Layer.scoped(
    this,
    Effect.gen(function*() {
      const client = yield* HttpClient.HttpClient
      const post = (path: string, form: Record<string, string>) =>
        client.execute(
          HttpClientRequest.bodyUrlParams(HttpClientRequest.post(`${settings.upstream}${path}`), form)
        ).pipe(
          Effect.flatMap((response) => Effect.zip(Effect.succeed(response.status), response.json)),
          Effect.mapError(() => new Refused({ why: "unreachable" })),
          Effect.flatMap(([status, body]) =>
            status === 200
              ? Effect.succeed(body as Token)
              : Effect.fail(new Refused({ why: (body as { readonly error: string }).error }))
          )
        )
      return yield* SharedSession.make({
        name: "fleet",
        key: settings.key,
        schema: Token,
        acquire: post("/token", { grant_type: "password" }),
        renew: ({ refresh }, { uncertain }) =>
          at("presenting").pipe(
            Effect.zipRight(
              post("/token", { grant_type: "refresh_token", refresh_token: refresh, uncertain: String(uncertain) })
            ),
            Effect.zipLeft(at("presented"))
          ),
        onEnd: ({ refresh }) => Effect.ignore(post("/revoke", { refresh_token: refresh })),
        fatal: ({ why }) => why === "invalid_grant",
        // The tests revoke more often than a server does.
        budget: { refreshes: 1000, within: "1 minute" },
        lease: settings.lease,
        timeout: settings.timeout,
        encryptWith: settings.encryptWith === undefined
          ? undefined
          : [settings.encryptWith].flat().map((key) => Redacted.make(key))
      })
    })
  )
}

const store = storeLayer(settings.store)

const runtime = ManagedRuntime.make(
  TokenSession.layer.pipe(
    Layer.provide(Layer.function(SessionStore.SessionStore, SessionStore.SessionStore, watched)),
    Layer.provideMerge(Layer.merge(store, NodeHttpClient.layerUndici))
  )
)

/** Done when the API has accepted a token. Until then the session is asked for another one, a few times. */
const request = Effect.gen(function*() {
  const client = SessionHttpClient.withSession(yield* HttpClient.HttpClient, yield* TokenSession, {
    attach: (request, { access }) => HttpClientRequest.bearerToken(request, access),
    maxRefreshes: 3
  })
  const { status } = yield* Effect.scoped(HttpClient.withScope(client).get(`${settings.upstream}/api`))
  if (status !== 200) return yield* new Refused({ why: String(status) })
})

/** This many callers refresh the session if its token is refused. One request checks the token for all of them. */
const refusedTogether = (callers: number) =>
  Effect.gen(function*() {
    const client = yield* HttpClient.HttpClient
    const session = yield* TokenSession
    const isServed = ({ value }: Session.Generation<Token>) =>
      Effect.map(
        Effect.scoped(
          HttpClient.withScope(client).execute(
            HttpClientRequest.bearerToken(HttpClientRequest.get(`${settings.upstream}/api`), value.access)
          )
        ),
        ({ status }) => status === 200
      )
    const stale = yield* session.current
    if (yield* isServed(stale)) return callers
    const given = yield* Effect.replicateEffect(session.refresh(stale), callers, { concurrency: "unbounded" })
    const [first] = given
    const isSame = given.every(({ number }) => number === first!.number)
    return isSame && (yield* isServed(first!)) ? callers : 0
  })

const nameOf = (error: Effect.Effect.Error<typeof request>): string =>
  "reason" in error ? `${error._tag} ${error.reason}` : error._tag

let locked: { readonly exec: (statement: string) => void } | undefined

const questions = {
  /**
   * Raises a number in the row by compare-and-set until it has reached the given number. Gives how many writes of this
   * process succeeded.
   */
  contend: (target: number): Promise<number> =>
    Effect.runPromise(Effect.provide(
      Effect.gen(function*() {
        const store = yield* SessionStore.SessionStore
        let won = 0
        for (;;) {
          const { row } = yield* store.read(settings.key)
          const { failures, revision } = Option.getOrThrow(row)
          if (failures >= target) return won
          const next = { ...Option.getOrThrow(row), revision: revision + 1, failures: failures + 1 }
          if (yield* store.compareAndSet(settings.key, revision, next)) won++
        }
      }),
      store
    )),

  /** This many callers send a request to the API together. */
  call: (callers: number): Promise<Served> =>
    runtime.runPromise(
      Effect.map(
        Effect.all(Array.from({ length: callers }, () => Effect.either(request)), { concurrency: "unbounded" }),
        (answers) => {
          const failed: Record<string, number> = {}
          for (const answer of answers) {
            if (answer._tag === "Left") failed[nameOf(answer.left)] = (failed[nameOf(answer.left)] ?? 0) + 1
          }
          return { served: answers.filter(({ _tag }) => _tag === "Right").length, failed }
        }
      )
    ),

  /** Gives how many callers have a token that the API accepts. */
  refused: (callers: number): Promise<number> => runtime.runPromise(refusedTogether(callers)),

  /** Takes the lock of an SQLite file, until `unlock`. */
  lock: async (): Promise<void> => {
    if (settings.store.kind !== "sqlite") throw new Error("only files of SQLite have a lock")
    const name = "better-sqlite3"
    const { default: Database } = await import(name)
    locked = new Database(settings.store.filename)
    locked!.exec("BEGIN IMMEDIATE")
  },

  unlock: (): void => {
    locked!.exec("COMMIT")
  },

  /** Signs the fleet out. */
  end: (): Promise<void> => runtime.runPromise(Effect.flatMap(TokenSession, ({ end }) => end)),

  /** At the next occurrence of this step the process reports it, and halts there. */
  halt: (step: Step, halt: Halt): void => {
    armed = { step, halt }
  },

  /** The number of calls of the store. */
  operations: (): number => operations,

  /** How often this process has `renewed`, `adopted` or `took over`. */
  events: (): Promise<Readonly<Record<string, number>>> =>
    Effect.runPromise(
      Effect.map(Metric.snapshot, (pairs) =>
        Object.fromEntries(pairs.flatMap(({ metricKey, metricState }) =>
          metricKey.name === "holdfast_shared_session_events_total" && "count" in metricState
            ? [[
              [...metricKey.tags].find(({ key }) =>
                key === "event"
              )?.value ?? "",
              Number(metricState.count)
            ]]
            : []
        )))
    )
}

export type Questions = typeof questions

interface Question {
  readonly id: number
  readonly name: keyof Questions
  readonly input: Parameters<Questions[keyof Questions]>
}

process.on("message", ({ id, input, name }: Question) => {
  Promise.resolve()
    .then(() => (questions[name] as (...input: ReadonlyArray<unknown>) => unknown)(...input))
    .then(
      (value) => process.send!({ id, value }),
      (error: unknown) => process.send!({ id, defect: String(error) })
    )
})
process.on("disconnect", () => process.exit())
