/** The clients of the gateway, in their own process: those of `examples/protocols/gateway.ts`, with short times. */
import * as Backoff from "effect-holdfast/Backoff"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { connect } from "../../protocols/gateway.js"
import { answerWith } from "../answering.js"
import { type Heard, Hearing } from "./hearing.js"

export interface Settings {
  readonly urls: ReadonlyArray<string>
  readonly token: string
}

/** In milliseconds. The times are short, since a storm lasts seconds. */
const pace = { backoff: Backoff.exponential({ initial: 50, max: 400 }), stableAfter: 500 }

const sessions = new Map<string, Hearing>()
const gaveUp: Array<string> = []
const scope = Effect.runSync(Scope.make())

const follow = (url: string, token: string) =>
  Effect.flatMap(
    connect(url, Redacted.make(token), pace),
    ({ events }) =>
      Stream.runForEach(events, ({ d, s, t }) =>
        Effect.sync(() => {
          if (t === "RESUMED") return
          const id: string = t === "READY" ? d.session_id : d.of
          const hearing = sessions.get(id) ?? new Hearing()
          sessions.set(id, hearing)
          hearing.hear(s!)
        }))
  ).pipe(
    Effect.catchAll((error) => Effect.sync(() => gaveUp.push(error._tag)))
  )

const questions = answerWith({
  enter: ({ token, urls }: Settings): Promise<void> =>
    Effect.forEach(urls, (url) => Effect.forkIn(Scope.extend(follow(url, token), scope), scope), { discard: true })
      .pipe(
        Effect.provide(NodeWebSocketDialer.layer()),
        Effect.provide(Layer.merge(
          Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.stringLogger)),
          Logger.minimumLogLevel(LogLevel.Warning)
        )),
        Effect.runPromise
      ),
  leave: (): Promise<void> => Effect.runPromise(Scope.close(scope, Exit.void)),
  /** By session. */
  report: () => ({
    gaveUp,
    sessions: Object.fromEntries([...sessions].map(([id, { verdict }]) => [id, verdict])) as Record<string, Heard>
  })
})

export type Clients = typeof questions
