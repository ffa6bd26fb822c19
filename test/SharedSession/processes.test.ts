/** Fleets of real processes, each with callers of its own, against a server that detects reuse. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { databases } from "../support/databases.js"
import { type FleetProcess, fleetProcess } from "../support/fleet.js"
import type { Settings, Step } from "../support/fleetChild.js"
import { form } from "../support/form.js"
import { rotatingServer } from "../support/rotatingServer.js"
import { hasSqlite, type StoreSettings } from "../support/stores.js"

const root = mkdtempSync(join(tmpdir(), "holdfast-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let places = 0
const place = () => `holdfast_test_${process.pid}_${Date.now()}_${places++}`

/** In milliseconds. */
const lease = 1000

const fleet = (size: number, settings: Omit<Settings, "key" | "lease"> & { readonly lease?: number }) =>
  Effect.replicateEffect(fleetProcess({ key: "api", lease, ...settings }), size, { concurrency: "unbounded" })

/**
 * All processes together, with this number of callers each. Gives how many were served; no caller may get a failure.
 */
const callAll = (processes: ReadonlyArray<FleetProcess>, callers: number) =>
  Effect.map(
    Effect.forEach(processes, ({ ask }) => ask("call", callers), { concurrency: "unbounded" }),
    (answers) => {
      assert.deepStrictEqual(answers.filter(({ failed }) => Object.keys(failed).length > 0), [])
      return answers.reduce((sum, { served }) => sum + served, 0)
    }
  )

/** One after another: a process that has just started may be slower than a lease is long. */
const signIn = (processes: ReadonlyArray<FleetProcess>) =>
  Effect.forEach(processes, (one) => callAll([one], 1), { discard: true })

const together = (settings: () => StoreSettings): void => {
  const [processes, callers, revocations] = form === "quick" ? [3, 10, 5] : [10, 50, 50]

  it.live(`F1, F4: ${processes} processes with ${callers} callers each renew once for each revocation`, () =>
    Effect.scoped(Effect.gen(function*() {
      const server = yield* rotatingServer()
      const all = yield* fleet(processes, { store: settings(), upstream: server.url, lease: 8000 })
      yield* signIn(all)
      assert.deepStrictEqual(server.state.calls, ["sign in"])
      for (let round = 0; round < revocations; round++) {
        yield* server.revoke
        const served = yield* Effect.forEach(all, ({ ask }) => ask("refused", callers), { concurrency: "unbounded" })
        assert.deepStrictEqual(served, Array.from(all, () => callers))
      }
      assert.deepStrictEqual(
        server.state.calls.slice(1),
        Array.from({ length: revocations }, (_, round) => `renew 0.${round}`)
      )
      assert.strictEqual(server.state.reused, 0)
      assert.isFalse(server.state.uncertain.includes(true))
    })))
}

interface Killed {
  /** The requests to the server since the revocation. */
  readonly calls: ReadonlyArray<string>
  readonly uncertain: ReadonlyArray<boolean>
  /** Whether the process that was killed held the lease. */
  readonly holdsLease: boolean
}

const renewed: Killed = { calls: ["renew 0.0"], uncertain: [false], holdsLease: false }

/** By the step at which the process is killed: what the others do. The server accepts a repeated refresh token. */
const killed: Readonly<Record<Exclude<Step, "ending" | "ended">, Killed>> = {
  looked: renewed,
  taking: renewed,
  taken: { calls: ["renew 0.0"], uncertain: [true], holdsLease: true },
  presenting: { calls: ["renew 0.0"], uncertain: [true], holdsLease: true },
  presented: { calls: ["renew 0.0", "renew 0.0"], uncertain: [false, true], holdsLease: true },
  committing: { calls: ["renew 0.0", "renew 0.0"], uncertain: [false, true], holdsLease: true },
  committed: renewed,
  failing: { calls: ["renew 0.0", "renew 0.0"], uncertain: [false, true], holdsLease: true },
  failed: { calls: ["renew 0.0", "renew 0.0"], uncertain: [false, true], holdsLease: false }
}

/** These tests need their time to start processes, and every store behaves the same after a step. */
const fewSteps: ReadonlySet<string> = new Set<Step>(["taken", "presented", "failed"])

/** Two processes that are signed in, and the first of them killed at a step of the renewal that follows. */
const killedAt = (step: Step, store: StoreSettings, leeway: number) =>
  Effect.gen(function*() {
    const server = yield* rotatingServer({ leeway })
    const [victim, heir] = (yield* fleet(2, { store, upstream: server.url })) as [FleetProcess, FleetProcess]
    yield* signIn([victim, heir])
    yield* server.revoke
    server.state.calls.length = 0
    if (step === "failing" || step === "failed") server.next(Effect.succeed({ status: 503, body: "{}" }))
    yield* victim.ask("halt", step, "wait")
    const last = yield* Effect.fork(Effect.ignore(victim.ask(step.startsWith("end") ? "end" : "call", 1)))
    yield* victim.reached(step)
    yield* victim.kill
    yield* Fiber.join(last)
    return { server, heir }
  })

const killing = (settings: () => StoreSettings, steps: ReadonlySet<string>): void => {
  for (const [step, { calls, holdsLease, uncertain }] of Object.entries(killed)) {
    if (!steps.has(step)) continue
    it.live(`F3, F4: killed at the step "${step}", a process delays the others for its lease at most`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { heir, server } = yield* killedAt(step as Step, settings(), 60_000)
        const since = performance.now()
        if (step === "failed") {
          // A failure belongs to the fleet, and cools down first.
          assert.deepStrictEqual((yield* heir.ask("call", 1)).failed, { "SharedSessionError CoolingDown": 1 })
          yield* Effect.sleep("1 second")
        }
        assert.strictEqual(yield* callAll([heir], 10), 10)
        const took = performance.now() - since
        assert.deepStrictEqual([server.state.calls, server.state.uncertain], [calls, uncertain])
        assert.strictEqual(server.state.reused, 0)
        assert.isBelow(took, (holdsLease ? lease : 0) + 20_000)
        // No state is left over.
        yield* server.revoke
        assert.strictEqual(yield* callAll([heir], 10), 10)
        assert.isFalse(server.state.uncertain.at(-1))
      })))
  }

  it.live("F4: if a repeated token is not accepted, a process that is killed after spending it costs a sign-in", () =>
    Effect.scoped(Effect.gen(function*() {
      const { heir, server } = yield* killedAt("presented", settings(), 0)
      assert.strictEqual(yield* callAll([heir], 10), 10)
      assert.deepStrictEqual(server.state.calls, ["renew 0.0", "renew 0.0", "sign in"])
      assert.deepStrictEqual([server.state.uncertain, server.state.reused], [[false, true], 1])
    })))

  it.live("F4, F10: an `end` that is cut short has happened completely or not at all", () =>
    Effect.scoped(Effect.gen(function*() {
      const before = yield* killedAt("ending", settings(), 0)
      assert.strictEqual(yield* callAll([before.heir], 10), 10)
      assert.deepStrictEqual(before.server.state.calls, ["renew 0.0"])
      const after = yield* killedAt("ended", settings(), 0)
      assert.strictEqual(yield* callAll([after.heir], 10), 10)
      assert.deepStrictEqual(after.server.state.calls, ["sign in"])
    })))
}

const pausing = (settings: () => StoreSettings, isWhole: boolean): void => {
  it.live("F2, F4: a process that is suspended past its lease presents nothing when it wakes", () =>
    Effect.scoped(Effect.gen(function*() {
      const server = yield* rotatingServer()
      const [paused, other] = (yield* fleet(2, { store: settings(), upstream: server.url })) as [
        FleetProcess,
        FleetProcess
      ]
      yield* signIn([paused, other])
      yield* server.revoke
      yield* paused.ask("halt", "taken", "stop")
      const waking = yield* Effect.fork(callAll([paused], 10))
      yield* paused.reached("taken")
      assert.strictEqual(yield* callAll([other], 10), 10)
      yield* paused.signal("SIGCONT")
      assert.strictEqual(yield* Fiber.join(waking), 10)
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
      assert.deepStrictEqual(server.state.uncertain, [true])
      // Its memory is not out of date either.
      yield* server.revoke
      assert.strictEqual(yield* callAll([paused, other], 10), 20)
      assert.deepStrictEqual([server.state.calls.at(-1), server.state.uncertain.at(-1)], ["renew 0.1", false])
    })))

  if (!isWhole) return

  it.live("F2, F4: a process that is suspended past its lease with a token overwrites and revokes nothing", () =>
    Effect.scoped(Effect.gen(function*() {
      const server = yield* rotatingServer({ leeway: 60_000 })
      const [paused, other] = (yield* fleet(2, { store: settings(), upstream: server.url })) as [
        FleetProcess,
        FleetProcess
      ]
      yield* signIn([paused, other])
      const before = yield* paused.ask("events")
      yield* server.revoke
      yield* paused.ask("halt", "presented", "stop")
      const waking = yield* Effect.fork(callAll([paused], 10))
      yield* paused.reached("presented")
      assert.strictEqual(yield* callAll([other], 10), 10)
      // One more renewal, so that the paused process's value is older than the current one.
      yield* server.revoke
      assert.strictEqual(yield* callAll([other], 10), 10)
      yield* paused.signal("SIGCONT")
      assert.strictEqual(yield* Fiber.join(waking), 10)
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0", "renew 0.0", "renew 0.1"])
      assert.strictEqual(server.state.reused, 0)
      assert.deepStrictEqual((yield* paused.ask("events"))["renewed"], before["renewed"])
    })))

  it.live("F2: a renewal that takes longer than its lease is not taken over meanwhile", () =>
    Effect.scoped(Effect.gen(function*() {
      const server = yield* rotatingServer()
      const long = 6 * lease
      const all = yield* fleet(3, { store: settings(), upstream: server.url, lease: long })
      yield* signIn(all)
      yield* server.revoke
      const answer = yield* Deferred.make<undefined>()
      server.next(Deferred.await(answer))
      const calling = yield* Effect.fork(callAll(all, 10))
      yield* Effect.sleep(1.3 * long)
      assert.strictEqual(server.state.calls.length, 2)
      yield* Deferred.succeed(answer, undefined)
      assert.strictEqual(yield* Fiber.join(calling), 30)
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    })))
}

describe("a fleet over files", () => {
  const settings = (): StoreSettings => ({ kind: "file", directory: join(root, String(places++)) })
  together(settings)
  killing(settings, form === "quick" ? fewSteps : new Set(Object.keys(killed)))
  pausing(settings, form !== "quick")
})

describe.skipIf(form === "quick")("a fleet over a database", async () => {
  const { mysql, postgres, redis } = form === "quick"
    ? { mysql: undefined, postgres: undefined, redis: undefined }
    : await databases()
  const sqlite = form !== "quick" && await hasSqlite()
  const stores = {
    PostgreSQL: postgres && (() => ({ kind: "postgres", url: postgres, table: place() }) as const),
    MariaDB: mysql && (() => ({ kind: "mysql", url: mysql, table: place() }) as const),
    SQLite: sqlite && (() => ({ kind: "sqlite", filename: join(root, `${place()}.db`) }) as const),
    Redis: redis && (() => ({ kind: "redis", url: redis, prefix: `${place()}:` }) as const)
  }
  for (const [name, settings] of Object.entries(stores)) {
    describe.skipIf(!settings)(name, () => {
      if (!settings) return
      together(settings)
      killing(settings, fewSteps)
      pausing(settings, false)
    })
  }
})
