import { assert, describe, it } from "@effect/vitest"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Ref from "effect/Ref"
import { execFile } from "node:child_process"
import * as Comments from "../examples/comments.js"
import { bundled } from "./support/programs.js"

// -----------------------------------------------------------------------------
// requests
// -----------------------------------------------------------------------------

const add = (url: string, text: string) => Comments.ask(url, "POST", "/comments", text)

const addFirst = (url: string, text: string) => Comments.ask(url, "POST", "/comments/first", text)

const read = (url: string) =>
  Effect.map(Comments.ask(url, "GET", "/comments"), ({ body }) => JSON.parse(body) as Comments.Thread)

type Answer = Effect.Effect.Success<ReturnType<typeof add>>

const commentIn = ({ body, status }: Answer): Comments.Comment => {
  assert.strictEqual(status, 201)
  return JSON.parse(body) as Comments.Comment
}

/** The incident of an answer that is a problem and contains nothing else about the defect. */
const incidentIn = ({ body, status, type }: Answer): string => {
  assert.deepStrictEqual({ status, type }, { status: 500, type: "application/problem+json" })
  const { incident, ...others } = JSON.parse(body) as { readonly incident: string }
  assert.deepStrictEqual(others as object, {
    type: "about:blank",
    title: "Internal Server Error",
    status: 500,
    instance: `urn:uuid:${incident}`
  })
  return incident
}

const agrees = ({ comments, count }: Comments.Thread): boolean => count === comments.length

// -----------------------------------------------------------------------------
// what is behind the handlers
// -----------------------------------------------------------------------------

const isFree = (lock: Effect.Semaphore): Effect.Effect<boolean> =>
  Effect.map(lock.withPermitsIfAvailable(1)(Effect.void), Option.isSome)

/** A lock that is released by hand, and that reports each request for it. */
const reportingLock = Effect.gen(function*() {
  const lock = yield* Effect.makeSemaphore(1)
  const asked = yield* Queue.unbounded<void>()
  const take = (permits: number) => Effect.zipRight(Queue.offer(asked, undefined), lock.take(permits))
  return { lock: { take, release: lock.release }, asked: Queue.take(asked), isFree: isFree(lock) }
})

const served = (store: Comments.Store) => Comments.serve(Comments.routes(store))

const isolated = (store: Comments.Store) => Comments.serve(DefectBoundary.isolate(Comments.routes(store)))

const transactional = Effect.map(TransactionalRef.make(Comments.empty), (thread) => ({
  thread,
  store: Comments.inTransaction(thread)
}))

interface Logged {
  readonly level: string
  readonly incident: unknown
  readonly defect: unknown
}

const withLogs = <A, E, R>(f: (logs: ReadonlyArray<Logged>) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const logs: Array<Logged> = []
    const logger = Logger.make(({ annotations, cause, logLevel }) => {
      const incident = Option.getOrUndefined(HashMap.get(annotations, "incident"))
      logs.push({ level: logLevel.label, incident, defect: Cause.squash(cause) })
    })
    return Effect.provide(f(logs), Logger.replace(Logger.defaultLogger, logger))
  })

/** A change that has made its first step, waits before the second, and then dies. */
const midway = (store: Comments.Store) =>
  Effect.gen(function*() {
    const reached = yield* Deferred.make<void>()
    const goOn = yield* Deferred.make<void>()
    const fiber = yield* Effect.fork(store.change((thread) =>
      Effect.gen(function*() {
        yield* Ref.update(thread, (now) => ({ ...now, count: now.count + 1 }))
        yield* Deferred.succeed(reached, undefined)
        yield* Deferred.await(goOn)
        return yield* Effect.die("midway")
      })
    ))
    yield* Deferred.await(reached)
    return Effect.zipRight(Deferred.succeed(goOn, undefined), Fiber.await(fiber))
  })

// -----------------------------------------------------------------------------
// tests
// -----------------------------------------------------------------------------

describe("comments behind a lock released by hand", () => {
  for (const [name, serve] of [["alone", served], ["with a boundary around the handlers", isolated]] as const) {
    it.scopedLive(`${name}: after a defect the next request hangs until the lock is released`, () =>
      withLogs(() =>
        Effect.gen(function*() {
          const { asked, isFree, lock } = yield* reportingLock
          const url = yield* serve(yield* Comments.releasedByHand(lock))
          assert.strictEqual((yield* add(url, "hello")).status, 500)
          yield* asked
          assert.isFalse(yield* isFree)

          const second = yield* Effect.fork(add(url, "is anybody there?"))
          yield* asked
          // The server works, and the second request's handler has not reached its first step.
          assert.deepStrictEqual(yield* read(url), { count: 1, comments: [] })
          const none = yield* Effect.timeoutOption(Fiber.join(second), "50 millis")
          assert.isTrue(Option.isNone(none))

          yield* lock.release(1)
          assert.strictEqual((yield* Fiber.join(second)).status, 500)
          assert.deepStrictEqual(yield* read(url), { count: 2, comments: [] })
          assert.isFalse(yield* isFree)
        })
      ))
  }

  it.scopedLive("after a defect a handler without a bug hangs, too, until its client gives up", () =>
    Effect.gen(function*() {
      const { asked, lock } = yield* reportingLock
      // When the server ends, it waits for remaining handlers: there are none.
      yield* Effect.scoped(Effect.gen(function*() {
        const url = yield* served(yield* Comments.releasedByHand(lock))
        assert.strictEqual((yield* add(url, "hello")).status, 500)
        yield* asked
        const correct = yield* Effect.fork(addFirst(url, "welcome"))
        yield* asked
        assert.deepStrictEqual(yield* read(url), { count: 1, comments: [] })
        assert.isTrue(Option.isNone(yield* Fiber.poll(correct)))
        yield* Fiber.interrupt(correct)
      }))
    }))
})

describe("comments behind a lock always released", () => {
  it.scopedLive("are answered after a defect, and are fewer than their count for ever", () =>
    Effect.gen(function*() {
      const lock = yield* Effect.makeSemaphore(1)
      const url = yield* served(yield* Comments.alwaysReleased(lock))
      for (const text of ["hello", "is anybody there?"]) {
        assert.deepStrictEqual(yield* add(url, text), { status: 500, type: null, body: "" })
        assert.isTrue(yield* isFree(lock))
      }
      assert.deepStrictEqual(yield* read(url), { count: 2, comments: [] })
      const first = commentIn(yield* addFirst(url, "welcome"))
      const second = commentIn(yield* add(url, "hello"))
      assert.deepStrictEqual([first.number, second.number], [3, 4])
      assert.deepStrictEqual(yield* read(url), { count: 4, comments: [first, second] })
    }))

  it.scopedLive("show readers a partial change", () =>
    Effect.gen(function*() {
      const lock = yield* Effect.makeSemaphore(1)
      const store = yield* Comments.alwaysReleased(lock)
      const url = yield* served(store)
      const goOn = yield* midway(store)
      assert.isFalse(yield* isFree(lock))
      assert.deepStrictEqual(yield* read(url), { count: 1, comments: [] })
      yield* goOn
      assert.isTrue(yield* isFree(lock))
      assert.deepStrictEqual(yield* read(url), { count: 1, comments: [] })
    }))
})

describe("comments in transactions behind a boundary", () => {
  it.scopedLive("are unchanged after a defect, and each request is answered", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { store, thread } = yield* transactional
        const url = yield* isolated(store)
        const incidents: Array<string> = []
        for (const text of ["hello", "is anybody there?"]) {
          incidents.push(incidentIn(yield* add(url, text)))
          assert.deepStrictEqual(yield* read(url), Comments.empty)
        }
        assert.strictEqual(new Set(incidents).size, 2)
        assert.deepStrictEqual(logs.map(({ incident }) => incident), incidents)
        for (const { defect, level } of logs) {
          assert.strictEqual(level, "ERROR")
          assert.instanceOf(defect, TypeError)
        }
        const { commits, holder, rollbacks, waiters } = yield* TransactionalRef.inspect(thread)
        assert.isTrue(Option.isNone(holder))
        assert.deepStrictEqual({ commits, rollbacks, waiters }, { commits: 0, rollbacks: 2, waiters: 0 })

        const first = commentIn(yield* addFirst(url, "welcome"))
        const second = commentIn(yield* add(url, "hello"))
        assert.deepStrictEqual([first.after, first.number, second.after, second.number], [null, 1, 1, 2])
        assert.strictEqual((yield* addFirst(url, "me first")).status, 409)
        assert.deepStrictEqual(yield* read(url), { count: 2, comments: [first, second] })
        assert.lengthOf(logs, 2)
      })
    ))

  it.scopedLive("show no reader a partial change, and further changes wait for its end", () =>
    Effect.gen(function*() {
      const { store, thread } = yield* transactional
      const url = yield* isolated(store)
      const goOn = yield* midway(store)
      const first = yield* Effect.fork(addFirst(url, "welcome"))
      // The request is on its way; each of these is another request, and the test's own time limit is the bound.
      yield* Effect.repeat(Effect.zipRight(read(url), TransactionalRef.inspect(thread)), {
        until: ({ waiters }) => waiters === 1
      })
      assert.deepStrictEqual(yield* read(url), Comments.empty)
      assert.isTrue(Option.isNone(yield* Fiber.poll(first)))
      yield* goOn
      assert.strictEqual(commentIn(yield* Fiber.join(first)).number, 1)
      assert.isTrue(agrees(yield* read(url)))
    }))

  it.scopedLive("have no gap and no fork, however many requests come together before and after the first", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { store } = yield* transactional
        const url = yield* isolated(store)
        const atOnce = Effect.forEach(
          Array.from({ length: 20 }, (_, index) => `comment ${index}`),
          (text) => Effect.zip(add(url, text), read(url), { concurrent: true }),
          { concurrency: "unbounded" }
        )

        const before = yield* atOnce
        assert.deepStrictEqual(
          before.map(([answer]) => incidentIn(answer)).sort(),
          logs.map(({ incident }) => String(incident)).sort()
        )
        for (const [, thread] of before) assert.deepStrictEqual(thread, Comments.empty)

        yield* addFirst(url, "welcome")
        const after = yield* atOnce
        for (const [, thread] of after) assert.isTrue(agrees(thread))
        const { comments, count } = yield* read(url)
        assert.strictEqual(count, 21)
        assert.deepStrictEqual(
          comments.map(({ after, number }) => [after, number]),
          comments.map((_, index) => [index === 0 ? null : index, index + 1])
        )
        assert.sameDeepMembers(comments.slice(1), after.map(([answer]) => commentIn(answer)))
      })
    ))
})

describe("examples/comments.ts", () => {
  const run = async () => {
    const script = await bundled(new URL("../examples/comments.ts", import.meta.url))
    return new Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>(
      (resolve) => {
        const child = execFile(
          process.execPath,
          [script],
          { timeout: 50_000, killSignal: "SIGKILL" },
          (_, stdout, stderr) => resolve({ code: child.exitCode, stdout, stderr })
        )
      }
    )
  }

  it("prints what happens with each kind of store, and ends", async () => {
    const { code, stderr, stdout } = await run()
    assert.deepStrictEqual({ code, stderr }, { code: 0, stderr: "" })
    const incidents = [...new Set(stdout.match(/[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}/g))]
    assert.lengthOf(incidents, 2)
    const lines = stdout.trimEnd().split("\n").map((line) =>
      incidents.reduce((text, incident, index) => text.replaceAll(incident, `#${index + 1}`), line).trim()
    )
    const defect = "ERROR a defect in a request handler: Cannot read properties of undefined (reading 'number')"
    const problem = (incident: string) =>
      `500 {"type":"about:blank","title":"Internal Server Error","status":500,"instance":"urn:uuid:${incident}",` +
      `"incident":"${incident}"}`
    assert.deepStrictEqual(lines, [
      "with a lock released by hand:",
      "POST /comments: 500",
      "POST /comments: no answer within 3 seconds",
      "with a lock always released:",
      "POST /comments: 500",
      "POST /comments: 500",
      "GET /comments: 200 {\"count\":2,\"comments\":[]}",
      "POST /comments/first: 201 {\"number\":3,\"text\":\"welcome\",\"after\":null}",
      "POST /comments: 201 {\"number\":4,\"text\":\"hello\",\"after\":3}",
      "GET /comments: 200 {\"count\":4,\"comments\":[{\"number\":3,\"text\":\"welcome\",\"after\":null}," +
      "{\"number\":4,\"text\":\"hello\",\"after\":3}]}",
      "with a transaction behind a boundary:",
      `the log: ${defect}; incident #1`,
      `POST /comments: ${problem("#1")}`,
      `the log: ${defect}; incident #2`,
      `POST /comments: ${problem("#2")}`,
      "GET /comments: 200 {\"count\":0,\"comments\":[]}",
      "POST /comments/first: 201 {\"number\":1,\"text\":\"welcome\",\"after\":null}",
      "POST /comments: 201 {\"number\":2,\"text\":\"hello\",\"after\":1}",
      "GET /comments: 200 {\"count\":2,\"comments\":[{\"number\":1,\"text\":\"welcome\",\"after\":null}," +
      "{\"number\":2,\"text\":\"hello\",\"after\":1}]}"
    ])
  })
})
