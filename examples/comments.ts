/**
 * A list of comments behind HTTP handlers, one of which has a bug, and what the bug leaves for the next request. With a
 * lock that is released by hand, the next request hangs for ever. With a lock that is always released, the state is
 * half changed. With a transaction behind a boundary, nothing is wrong.
 *
 * Run it with `node --import tsx examples/comments.ts`.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import { createServer } from "node:http"
import { fileURLToPath } from "node:url"

export interface Comment {
  readonly number: number
  readonly text: string
  /** The number of the previous comment. */
  readonly after: number | null
}

/** `count` is the number of comments, and that of the latest one. */
export interface Thread {
  readonly count: number
  readonly comments: ReadonlyArray<Comment>
}

export interface Store {
  /** Runs the steps of a change, one change after the other. */
  readonly change: <A>(steps: (thread: Ref.Ref<Thread>) => Effect.Effect<A>) => Effect.Effect<A>
  readonly read: Effect.Effect<Thread>
}

export const empty: Thread = { count: 0, comments: [] }

// -----------------------------------------------------------------------------
// the handlers
// -----------------------------------------------------------------------------

/** In two steps, with the bug in between: an empty list has no last comment. */
const addComment = (thread: Ref.Ref<Thread>, text: string): Effect.Effect<Comment> =>
  Effect.gen(function*() {
    const { comments, count } = yield* Ref.updateAndGet(thread, (now) => ({ ...now, count: now.count + 1 }))
    const last = comments[comments.length - 1]!
    const comment = { number: count, text, after: last.number }
    yield* Ref.update(thread, (now) => ({ ...now, comments: [...now.comments, comment] }))
    return comment
  })

/** Adds the first comment. */
const addFirst = (thread: Ref.Ref<Thread>, text: string): Effect.Effect<Option.Option<Comment>> =>
  Ref.modify(thread, (now) => {
    if (now.comments.length > 0) return [Option.none(), now]
    const comment = { number: now.count + 1, text, after: null }
    return [Option.some(comment), { count: comment.number, comments: [comment] }]
  })

const bodyText = Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => request.text)

const created = (comment: Comment) => HttpServerResponse.unsafeJson(comment, { status: 201 })

/** The same routes over any store. */
export const routes = (store: Store) =>
  HttpRouter.empty.pipe(
    HttpRouter.get("/comments", Effect.map(store.read, (thread) => HttpServerResponse.unsafeJson(thread))),
    HttpRouter.post(
      "/comments",
      Effect.gen(function*() {
        const text = yield* bodyText
        return created(yield* store.change((thread) => addComment(thread, text)))
      })
    ),
    HttpRouter.post(
      "/comments/first",
      Effect.gen(function*() {
        const text = yield* bodyText
        const comment = yield* store.change((thread) => addFirst(thread, text))
        return Option.match(comment, { onNone: () => HttpServerResponse.empty({ status: 409 }), onSome: created })
      })
    )
  )

// -----------------------------------------------------------------------------
// three ways to make one change wait for another
// -----------------------------------------------------------------------------

/** After a defect the lock is never released. */
export const releasedByHand = (lock: Pick<Effect.Semaphore, "take" | "release">): Effect.Effect<Store> =>
  Effect.map(Ref.make(empty), (thread) => ({
    change: (steps) =>
      Effect.gen(function*() {
        yield* lock.take(1)
        const result = yield* steps(thread)
        yield* lock.release(1)
        return result
      }),
    read: Ref.get(thread)
  }))

/** After a defect the lock is free, but the state that it guards is half changed. */
export const alwaysReleased = (lock: Effect.Semaphore): Effect.Effect<Store> =>
  Effect.map(Ref.make(empty), (thread) => ({
    change: (steps) => lock.withPermits(1)(steps(thread)),
    read: Ref.get(thread)
  }))

/** The steps work on a draft: a defect drops it, and the next change gets its turn. */
export const inTransaction = (thread: TransactionalRef.TransactionalRef<Thread>): Store => ({
  change: (steps) =>
    // There is no invariant, no outer transaction and only one ref, so none of its errors can happen.
    Effect.orDie(TransactionalRef.transaction(thread, steps)),
  read: TransactionalRef.get(thread)
})

// -----------------------------------------------------------------------------
// asking over HTTP
// -----------------------------------------------------------------------------

/** Until the scope is closed, on a port that the system chooses. */
export const serve = <E>(app: HttpApp.Default<E>) =>
  Effect.gen(function*() {
    const server = yield* NodeHttpServer.make(() => createServer(), { port: 0, host: "127.0.0.1" })
    yield* server.serve(app)
    return HttpServer.formatAddress(server.address)
  })

/** A client that stops waiting cancels its request. */
export const ask = (url: string, method: string, path: string, text: string | null = null) =>
  Effect.promise(async (signal) => {
    const response = await fetch(`${url}${path}`, { method, body: text, signal })
    return { status: response.status, type: response.headers.get("content-type"), body: await response.text() }
  })

const requests = [
  ["POST", "/comments", "hello"],
  ["POST", "/comments", "is anybody there?"],
  ["GET", "/comments", null],
  ["POST", "/comments/first", "welcome"],
  ["POST", "/comments", "hello"],
  ["GET", "/comments", null]
] as const

const show = <E>(name: string, app: HttpApp.Default<E>) =>
  Effect.scoped(Effect.gen(function*() {
    const url = yield* serve(app)
    console.log(`with ${name}:`)
    for (const [method, path, text] of requests) {
      const answer = yield* Effect.timeoutOption(ask(url, method, path, text), "3 seconds")
      const shown = Option.match(answer, {
        onNone: () => "no answer within 3 seconds",
        onSome: ({ body, status }) => `${status} ${body}`.trimEnd()
      })
      console.log(`  ${method} ${path}: ${shown}`)
      // All later changes wait in the same queue.
      if (Option.isNone(answer)) return
    }
  }))

/** The operator's log, on one line. */
const logger = Logger.replace(
  Logger.defaultLogger,
  Logger.make(({ annotations, cause, logLevel, message }) => {
    const incident = Option.getOrElse(HashMap.get(annotations, "incident"), () => "none")
    const [why] = Cause.prettyErrors(cause)
    console.log(`  the log: ${logLevel.label} ${String(message)}: ${why?.message}; incident ${String(incident)}`)
  })
)

const program = Effect.gen(function*() {
  yield* show("a lock released by hand", routes(yield* releasedByHand(yield* Effect.makeSemaphore(1))))
  yield* show("a lock always released", routes(yield* alwaysReleased(yield* Effect.makeSemaphore(1))))
  const thread = yield* TransactionalRef.make(empty, { name: "thread" })
  yield* show("a transaction behind a boundary", DefectBoundary.isolate(routes(inTransaction(thread))))
})

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  NodeRuntime.runMain(Effect.provide(program, logger), { disablePrettyLogger: true })
}
