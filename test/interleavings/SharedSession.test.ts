import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"
import { bySize } from "../support/bySize.js"
import { form } from "../support/form.js"
import { overSharedSessions } from "../support/sharedSessions.js"
import { interrupted, scenarios } from "./sessions.js"

/** Scenarios about resources, which a shared value cannot have (S10). */
const ofLocalSessions: ReadonlySet<string> = new Set([
  "a generation's resources are open while it is used, and closed once",
  "an interrupted holder releases its generation",
  "a generation whose last holder is a fiber of its own is released, and the fiber ends",
  "a generation that an adopted one replaces stays open while it is used, and is released once"
])

describe("F8: a shared session keeps the guarantees of a session", async () => {
  for (const [name, scenario] of Object.entries(scenarios(overSharedSessions))) {
    if (ofLocalSessions.has(name)) continue
    const effect = Effect.scoped(scenario)
    // Without `timers`: the deadline of a store call is a timer, too, and if it fires early the refresh fails.
    const strategy = [
      "sweep" as const,
      "random" as const,
      "pct" as const,
      ...interrupted.includes(name) ? ["interrupt" as const] : []
    ]
    it.interleavings(
      name,
      effect,
      // The scenarios of a local session explore the same code more deeply, and a run costs several times less there.
      form === "quick"
        ? { strategy, limit: 4, seeds: 4, timeout: 120_000 }
        : { ...await bySize(effect, strategy), limit: 250 }
    )
  }
})

/** A store each of whose calls acquires a connection, in several steps that cannot be interrupted. */
const connected = Effect.gen(function*() {
  const memory = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
  const connections = { asked: 0, released: 0 }
  const connection = Effect.acquireRelease(
    Effect.zipRight(Effect.sync(() => connections.asked++), Effect.yieldNow()),
    () => Effect.zipRight(Effect.yieldNow(), Effect.sync(() => connections.released++))
  )
  const store: SessionStore.Service = {
    read: (key) => Effect.scoped(Effect.zipRight(connection, memory.read(key))),
    compareAndSet: (key, revision, row) =>
      Effect.scoped(Effect.zipRight(connection, memory.compareAndSet(key, revision, row))),
    notices: memory.notices
  }
  return { connections, store }
})

const closing = Effect.gen(function*() {
  const { connections, store } = yield* connected
  const scope = yield* Scope.make()
  const { current } = yield* SharedSession.make({
    key: "session",
    schema: Schema.Number,
    acquire: Effect.succeed(0),
    renew: (value) => Effect.succeed(value + 1)
  }).pipe(Effect.provideService(SessionStore.SessionStore, store), Scope.extend(scope))
  yield* Effect.fork(Effect.ignore(current))
  yield* Effect.yieldNow()
  yield* Scope.close(scope, Exit.void)
  assert.equal(connections.released, connections.asked)
})

describe("F5: a session that closes during a call of its store", () =>
  it.interleavings(
    "releases the resources of the call before its scope has closed",
    closing,
    form === "quick" ? { limit: 50, seeds: 20, timeout: 120_000 } : { limit: 2000, seeds: 1000 }
  ))
