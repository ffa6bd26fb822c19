import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import type * as Session from "effect-holdfast/Session"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as ParseResult from "effect/ParseResult"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { readFile } from "node:fs/promises"
import { failureOf } from "../support/exits.js"
import { settle } from "../support/settle.js"
import { Refused, Token } from "../support/tokenServer.js"
import { type FleetSession, inTime, makeFleet, nameOf, valueOf } from "./fleet.js"

const all = <A, E>(effects: ReadonlyArray<Effect.Effect<A, E>>) =>
  inTime(Effect.all(effects.map(Effect.exit), { concurrency: "unbounded" })).pipe(Effect.map(valueOf))

const tokensOf = <E>(
  exits: ReadonlyArray<Exit.Exit<Session.Generation<Token>, E>>
) => [...new Set(exits.map((exit) => nameOf(valueOf(exit))))]

const reasonOf = (exit: Exit.Exit<unknown, Refused | SharedSession.SharedSessionError | Session.SessionError>) => {
  const error = failureOf(exit)
  return error._tag === "SharedSessionError" ? error.reason : error._tag
}

const renewed = (session: FleetSession) => Effect.flatMap(session.current, (stale) => session.refresh(stale))

/** A number of callers of each process refuse the process's generation. */
const refusedBy = (callers: number, fleet: ReadonlyArray<FleetSession>) =>
  Effect.flatMap(
    inTime(Effect.all(fleet.map(({ current }) => current))),
    (stale) =>
      all(fleet.flatMap((session, i) => Array.from({ length: callers }, () => session.refresh(valueOf(stale)[i]!))))
  )

describe("F1: a fleet", () => {
  it.scoped("signs in once, and renews once, for all processes and all their callers", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet()
      const fleet = yield* Effect.replicateEffect(join(), 5)
      const first = yield* all(fleet.flatMap(({ current }) => [current, current, current]))
      assert.deepStrictEqual(tokensOf(first), ["0.0"])
      const next = yield* refusedBy(3, fleet)
      assert.deepStrictEqual(tokensOf(next), ["0.1"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
      assert.deepStrictEqual(server.state.uncertain, [false])
    }))

  it.scoped("gives a straggler of any process the current value, without asking the upstream", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet()
      const [one, two] = [yield* join(), yield* join()]
      const [, stale] = yield* all([one.current, two.current])
      yield* all([renewed(one)])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(tokensOf(yield* all([two.refresh(valueOf(stale!))])), ["0.1"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    }))

  it.scoped("adopts without budget and without `onRenewed`, which only the renewing process calls", () =>
    Effect.gen(function*() {
      const { join } = yield* makeFleet({ budget: { refreshes: 2, within: "1 hour" } })
      const kept: Array<string> = []
      const keep = (who: string) => ({
        onRenewed: (generation: Session.Generation<Token>) =>
          Effect.sync(() => kept.push(`${who} ${nameOf(generation)}`))
      })
      const one = yield* join({ ...keep("one"), budget: { refreshes: 100, within: "1 hour" } })
      const two = yield* join(keep("two"))
      yield* all([one.current, two.current])
      for (let round = 1; round < 6; round++) {
        const stale = valueOf(yield* inTime(two.current))
        yield* all([renewed(one)])
        assert.deepStrictEqual(tokensOf(yield* all([two.refresh(stale)])), [`0.${round}`])
      }
      assert.deepStrictEqual(kept, ["one 0.0", "one 0.1", "one 0.2", "one 0.3", "one 0.4", "one 0.5"])
    }))
})

describe("F2, F3: the lease and the intent", () => {
  it.scoped("a lease is extended for as long as a renewal takes, and no other process presents meanwhile", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({ takes: 20_000, lease: "1 second" })
      const fleet = yield* Effect.replicateEffect(join(), 3)
      yield* all(fleet.map(({ current }) => current))
      yield* refusedBy(1, fleet)
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
      assert.strictEqual(server.state.most, 1)
    }))

  it.scoped("after a silent holder's lease has run out, another process takes over, as uncertain", () =>
    Effect.gen(function*() {
      const { edit, join, row, server } = yield* makeFleet({ lease: "8 seconds" })
      const session = yield* join()
      yield* all([session.current])
      const now = (yield* Effect.clock).unsafeCurrentTimeMillis()
      yield* edit((row) => ({
        ...row,
        revision: row.revision + 1,
        holder: "dead",
        leaseUntil: now + 8000,
        intent: true
      }))
      const renewing = yield* Effect.fork(renewed(session))
      yield* settle
      yield* TestClock.adjust("7.9 seconds")
      yield* settle
      assert.deepStrictEqual(server.state.calls, ["sign in"])
      assert.deepStrictEqual(tokensOf(yield* all([Fiber.join(renewing)])), ["0.1"])
      assert.deepStrictEqual(server.state.uncertain, [true])
      assert.isNull((yield* row)!.holder)
    }))

  it.scoped("a failure makes the next presentation uncertain, a retry within the refresh too", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({ cooldown: 0 })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      server.next(Effect.fail(new Refused({ why: "reset" })))
      yield* all([renewed(one)])
      yield* all([renewed(two)])
      assert.deepStrictEqual(server.state.uncertain, [true])
    }))

  it.scoped("a failure that proves the token unspent leaves the next one certain, unless this was not", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({ cooldown: 0, unspent: ({ why }) => why === "429" })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      const fail = (why: string) => Effect.fail(new Refused({ why }))
      server.next(fail("429"))
      yield* all([renewed(one)])
      yield* all([renewed(two)])
      server.next(fail("reset"), fail("429"))
      yield* all([renewed(one)])
      yield* all([renewed(two)])
      yield* all([renewed(one)])
      assert.deepStrictEqual(server.state.uncertain, [false, true])
    }))

  it.scoped("a renewal that runs out of time makes the next presentation uncertain", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({ cooldown: 0, timeout: "5 seconds", lateness: 0 })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      server.next(Effect.never)
      assert.strictEqual(reasonOf(yield* inTime(renewed(one))), "RefreshTimeout")
      yield* all([renewed(two)])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0", "renew 0.0"])
      assert.deepStrictEqual(server.state.uncertain, [true])
    }))

  it.scoped("a credential that is refused to a process that has lost its lease is not served again: it adopts", () =>
    Effect.gen(function*() {
      const { edit, join, server } = yield* makeFleet({ takes: 0 })
      const [refused, answers] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const one = yield* join({
        renew: () => Effect.zipRight(Deferred.await(refused), new Refused({ why: "invalid_grant" }))
      })
      const two = yield* join({
        renew: (token, info) => Effect.zipLeft(server.renew(token, info), Deferred.await(answers))
      })
      yield* all([one.current, two.current])
      const first = yield* Effect.fork(renewed(one))
      yield* settle
      yield* edit((row) => ({ ...row, revision: row.revision + 1, leaseUntil: 0 }))
      const second = yield* Effect.fork(renewed(two))
      yield* settle
      yield* Deferred.succeed(refused, undefined)
      yield* settle
      yield* Deferred.succeed(answers, undefined)
      assert.deepStrictEqual(tokensOf(yield* all([Fiber.join(first), Fiber.join(second)])), ["0.1"])
      assert.deepStrictEqual([server.state.calls, server.state.reused], [["sign in", "renew 0.0"], 0])
    }))

  it.scoped("a process that has waited too long for another one's lease presents nothing: Contended", () =>
    Effect.gen(function*() {
      const { edit, join, server } = yield* makeFleet()
      const session = yield* join()
      yield* all([session.current])
      const now = (yield* Effect.clock).unsafeCurrentTimeMillis()
      yield* edit((row) => ({ ...row, revision: row.revision + 1, holder: "another", leaseUntil: now + 60_000 }))
      assert.strictEqual(reasonOf(yield* inTime(renewed(session))), "Contended")
      assert.deepStrictEqual(server.state.calls, ["sign in"])
    }))

  it.scoped("a row that was deleted is restored from memory, as uncertain", () =>
    Effect.gen(function*() {
      const { edit, join, row, server } = yield* makeFleet()
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      const before = (yield* row)!
      yield* edit((row) => ({ ...row, version: 0, origin: 0, value: null, committedBy: null }))
      yield* all([renewed(one)])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
      assert.deepStrictEqual(server.state.uncertain, [true])
      assert.isAbove((yield* row)!.version, before.version)
      assert.deepStrictEqual(tokensOf(yield* all([two.current])), ["0.1"])
    }))
})

describe("F5: the store", () => {
  it.scoped("is not needed while the value is valid; a renewal without it fails as unavailable", () =>
    Effect.gen(function*() {
      const { faults, join, server } = yield* makeFleet()
      const session = yield* join()
      yield* all([session.current])
      for (const fault of ["isDown", "isSilent"] as const) {
        faults[fault] = true
        assert.strictEqual(nameOf(valueOf(yield* inTime(session.current))), "0.0")
        assert.strictEqual(reasonOf(yield* inTime(renewed(session))), "StoreUnavailable")
        assert.deepStrictEqual(server.state.calls, ["sign in"])
        faults[fault] = false
        yield* TestClock.adjust("1 minute")
      }
      assert.deepStrictEqual(tokensOf(yield* all([renewed(session)])), ["0.1"])
    }))

  it.scoped("that fails after a token was obtained gets the token when it is back; it is presented once", () =>
    Effect.gen(function*() {
      const { faults, join, row, server } = yield* makeFleet()
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      const stale = yield* two.current
      server.next(Effect.sync(() => {
        faults.isDown = true
      }))
      assert.strictEqual(reasonOf(yield* inTime(renewed(one))), "StoreUnavailable")
      yield* TestClock.adjust("1 minute")
      faults.isDown = false
      yield* TestClock.adjust("5 seconds")
      yield* settle
      assert.isNull((yield* row)!.holder, "written without a caller")
      assert.strictEqual(nameOf(yield* one.current), "0.1", "and current without one")
      assert.deepStrictEqual(tokensOf(yield* all([two.refresh(stale)])), ["0.1"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    }))

  it.live("is not given up by a process that was suspended for longer than it waits for an answer", () =>
    Effect.scoped(Effect.gen(function*() {
      const { faults, join } = yield* makeFleet({ takes: 0 })
      const session = yield* join()
      faults.heldRead = Effect.promise(() => {
        const answer = readFile(import.meta.filename)
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2200)
        faults.heldRead = Effect.void
        return answer
      })
      assert.strictEqual(nameOf(yield* session.current), "0.0")
    })))

  it.scoped("that loses the answer to a commit has committed: the process recognises its own value", () =>
    Effect.gen(function*() {
      const { faults, join, server } = yield* makeFleet()
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      const [staleOne, staleTwo] = [yield* one.current, yield* two.current]
      server.next(Effect.sync(() => {
        faults.losesAnswers = 1
      }))
      assert.strictEqual(reasonOf(yield* inTime(renewed(one))), "StoreUnavailable")
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(tokensOf(yield* all([one.refresh(staleOne), two.refresh(staleTwo)])), ["0.1"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    }))
})

describe("F6: a failure is shared by the fleet", () => {
  it.scoped("the other processes do not try during its cooldown, which grows with the fleet's failures", () =>
    Effect.gen(function*() {
      const { join, row, server } = yield* makeFleet({ unspent: () => true })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      server.next(...Array.from({ length: 3 }, () => Effect.fail(new Refused({ why: "503" }))))
      const cooldowns: Array<number> = []
      for (const [failing, other] of [[one, two], [two, one], [one, two]] as const) {
        assert.strictEqual(reasonOf(yield* inTime(renewed(failing))), "Refused")
        const error = failureOf(yield* inTime(renewed(other))) as SharedSession.SharedSessionError
        assert.strictEqual(error.reason, "CoolingDown")
        cooldowns.push(Math.round(Duration.toMillis(error.retryAfter!) / 1000))
        yield* TestClock.adjust(error.retryAfter!)
      }
      assert.deepStrictEqual(cooldowns, [1, 2, 4])
      assert.deepStrictEqual([(yield* row)!.failures, (yield* row)!.error], [3, "Refused"])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(tokensOf(yield* all([renewed(two), renewed(one)])), ["0.1"])
      assert.strictEqual((yield* row)!.failures, 0)
    }))

  it.scoped("a credential that is refused for good leads to one sign-in, within the same refresh", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet()
      const fleet = yield* Effect.replicateEffect(join(), 3)
      yield* all(fleet.map(({ current }) => current))
      server.state.families[0] = -1
      assert.deepStrictEqual(tokensOf(yield* refusedBy(2, fleet)), ["1.0"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0", "sign in"])
    }))
})

describe("F7: a value at rest", () => {
  const key = (byte: number) => Redacted.make(new Uint8Array(32).fill(byte))

  it.live("is read with its key alone, the rotated one too, and not overwritten by a process that cannot read it", () =>
    Effect.scoped(Effect.gen(function*() {
      const { join, row, server } = yield* makeFleet({ takes: 0 })
      const first = yield* join({ encryptWith: key(1) })
      yield* first.current
      const before = (yield* row)!
      assert.notInclude(before.value, "family")
      const rotated = yield* join({ encryptWith: [key(2), key(1)] })
      assert.strictEqual(nameOf(yield* rotated.current), "0.0")
      for (const own of [{ encryptWith: key(3) }, {}]) {
        const stranger = yield* join(own)
        const exit = yield* Effect.exit(stranger.current)
        assert.strictEqual(reasonOf(exit), "Unreadable")
        assert.notInclude(String(exit), before.value!.slice(30))
      }
      assert.deepStrictEqual(yield* row, before)
      const stale = yield* rotated.current
      yield* rotated.refresh(stale)
      assert.notStrictEqual((yield* row)!.value!.split(".")[2], before.value!.split(".")[2], "the first key encrypts")
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    })))

  it.live("belongs to its session's key: under another one it is Unreadable, encrypted or not", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const own of [{ encryptWith: key(1) }, {}]) {
        const { copyTo, join, server } = yield* makeFleet({ takes: 0, ...own })
        yield* (yield* join()).current
        yield* copyTo("other")
        assert.strictEqual(reasonOf(yield* Effect.exit((yield* join({ key: "other" })).current)), "Unreadable")
        assert.deepStrictEqual(server.state.calls, ["sign in"])
      }
    })))

  it.scoped("of another schema, or that was changed, is Unreadable, or a sign-in if that was asked for", () =>
    Effect.gen(function*() {
      const { edit, join, row, server } = yield* makeFleet()
      yield* all([(yield* join()).current])
      const other = yield* join({ schema: Schema.Struct({ access: Schema.String }) as never })
      assert.strictEqual(reasonOf(yield* inTime(other.current)), "Unreadable")
      yield* edit((row) => ({ ...row, revision: row.revision + 1, value: row.value!.replace("0", "1") }))
      const before = yield* row
      assert.strictEqual(reasonOf(yield* inTime((yield* join()).current)), "Unreadable")
      assert.deepStrictEqual(yield* row, before)
      const signingIn = yield* join({ onUnreadable: "signIn" })
      assert.deepStrictEqual(tokensOf(yield* all([signingIn.current])), ["1.0"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "sign in"])
    }))

  it.scoped("that cannot be written is Unreadable and revoked, and its predecessor is not presented again", () =>
    Effect.gen(function*() {
      const written = (encode: (token: Token) => unknown) =>
        Schema.transform(Schema.Any, Token, { decode: (is): Token => is, encode }) as never
      const failing = written(() => {
        throw new Error("hunter2")
      })
      const oneWay = written(() => "a token")
      const cases: ReadonlyArray<readonly [detail: string, number: unknown, schema: Schema.Schema<any>]> = [
        ["would not fit the schema", "none", Token],
        ["would not be JSON", Number.NaN, Token],
        ["would not be JSON", 1n, Schema.Any],
        ["could not be read again by its schema", 1, oneWay],
        ["its schema has thrown", 1, failing]
      ]
      for (const [detail, number, schema] of cases) {
        const { join, row, server } = yield* makeFleet({ cooldown: 0 })
        const one = yield* join()
        const other = yield* join({
          schema,
          renew: (token, info) => Effect.as(server.renew(token, info), { ...token, number } as Token)
        })
        yield* all([one.current, other.current])
        const exit = yield* inTime(renewed(other))
        const error = failureOf(exit) as SharedSession.SharedSessionError
        assert.strictEqual(error.reason, "Unreadable")
        assert.include(error.detail, detail)
        assert.notInclude(String(exit), "hunter2")
        assert.deepStrictEqual([(yield* row)!.dead, (yield* row)!.error], [true, "Unreadable"])
        assert.deepStrictEqual(tokensOf(yield* all([one.current])), ["1.0"])
        assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0", "sign in"])
        assert.deepStrictEqual(server.state.revoked, [`0.${number}`])
      }
    }))

  it.scoped("that makes its schema throw is Unreadable, or a sign-in if that was asked for", () =>
    Effect.gen(function*() {
      const { join, row } = yield* makeFleet()
      yield* all([(yield* join()).current])
      const before = yield* row
      const throwing = Schema.transform(Schema.Any, Token, {
        decode: (is: Token): Token => {
          if (is.family === 0) throw new Error("hunter2")
          return is
        },
        encode: (is) => is
      }) as never
      const exit = yield* inTime((yield* join({ schema: throwing })).current)
      assert.strictEqual(reasonOf(exit), "Unreadable")
      assert.notInclude(String(exit), "hunter2")
      assert.deepStrictEqual(yield* row, before)
      const signingIn = yield* join({ schema: throwing, onUnreadable: "signIn" })
      assert.deepStrictEqual(tokensOf(yield* all([signingIn.current])), ["1.0"])
    }))

  it.scoped("is data: what a call has acquired is released when the call ends", () =>
    Effect.gen(function*() {
      let [opened, open] = [0, 0]
      const acquire = Effect.acquireRelease(
        Effect.sync(() => (open++, String(opened++))),
        () => Effect.sync(() => open--)
      )
      const session = yield* SharedSession.make({ key: "api", schema: Schema.String, acquire, renew: () => acquire })
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual([opened, open], [2, 0])
    }).pipe(Effect.provide(SessionStore.layerMemory)))

  it.scoped("has validated options", () =>
    Effect.gen(function*() {
      const bad: ReadonlyArray<readonly [string, object]> = [
        ["key", { key: "" }],
        ["lease", { lease: -1 }],
        ["lease", { lease: "1 hour" }],
        ["encryptWith", { encryptWith: Redacted.make(new Uint8Array(31)) }],
        ["onUnreadable", { onUnreadable: "overwrite" }],
        ["renew", { renew: undefined }],
        ["renew", { renew: Effect.succeed("") }],
        ["unspent", { unspent: true }]
      ]
      for (const [option, options] of bad) {
        const error = yield* SharedSession.make({
          key: "k",
          schema: Schema.String,
          acquire: Effect.succeed(""),
          renew: Effect.succeed,
          ...options
        }).pipe(Effect.provide(SessionStore.layerMemory), Effect.flip)
        assert.instanceOf(error, InvalidOptions)
        assert.strictEqual(error.option, option)
        assert.notInclude(error.message, "0,0,0")
      }
    }))
})

describe("F9: an idle shared session costs nothing", () => {
  it.scoped("neither a served request nor an idle hour calls the store, and a notice brings the new value", () =>
    Effect.gen(function*() {
      const { counts, join, server } = yield* makeFleet()
      const [one, two] = [yield* join(), yield* join()]
      yield* join()
      yield* all([one.current, two.current])
      yield* settle
      const before = { ...counts }
      for (let i = 0; i < 100; i++) yield* one.current
      yield* TestClock.adjust("1 hour")
      yield* settle
      assert.deepStrictEqual(counts, before)
      yield* all([renewed(one)])
      yield* settle
      assert.strictEqual(nameOf(yield* two.current), "0.1")
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
      assert.isAtMost(counts.reads + counts.writes - before.reads - before.writes, 6)
    }))

  it.scoped("a renewal calls the store four times, and twice for each third of the lease; an adoption once", () =>
    Effect.gen(function*() {
      const { counts, join } = yield* makeFleet({ takes: 2100, lease: "3 seconds" })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      yield* settle
      const before = { ...counts }
      yield* all([renewed(one)])
      yield* settle
      // Of the reads one is the other process's, which has heard of the renewal.
      assert.deepStrictEqual(
        { reads: counts.reads - before.reads, writes: counts.writes - before.writes },
        { reads: 2 + 2 + 1, writes: 2 + 2 }
      )
    }))

  it.scoped("one process renews ahead of expiry, for all", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({
        expiresAt: ({ number }) => (number + 1) * 600_000,
        refreshAhead: "1 minute"
      })
      const fleet = yield* Effect.replicateEffect(join(), 3)
      yield* all(fleet.map(({ current }) => current))
      yield* TestClock.adjust("9.7 minutes")
      for (const { current } of fleet) assert.strictEqual(nameOf(valueOf(yield* inTime(current))), "0.0")
      yield* TestClock.adjust("1 second")
      yield* settle
      for (const { current } of fleet) assert.strictEqual(nameOf(valueOf(yield* inTime(current))), "0.1")
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    }))
})

describe("F10: end", () => {
  it.scoped("signs the whole fleet out: the row's value is revoked once, and the next caller signs in", () =>
    Effect.gen(function*() {
      const { join, row, server } = yield* makeFleet()
      const fleet = yield* Effect.replicateEffect(join(), 3)
      yield* all(fleet.map(({ current }) => current))
      yield* all([fleet[0]!.end])
      assert.deepStrictEqual(server.state.revoked, ["0.0"])
      assert.deepStrictEqual([(yield* row)!.dead, (yield* row)!.value], [true, null])
      yield* settle
      assert.deepStrictEqual(tokensOf(yield* all(fleet.map(({ current }) => current))), ["1.0"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "sign in"])
    }))

  it.scoped("while the lease is being taken: the token is not presented, and no process signs in again", () =>
    Effect.gen(function*() {
      const { faults, join, row, server } = yield* makeFleet()
      const session = yield* join()
      yield* all([session.current])
      const gate = yield* Deferred.make<void>()
      faults.held = Deferred.await(gate)
      const renewing = yield* Effect.fork(Effect.exit(renewed(session)))
      yield* settle
      const ending = yield* Effect.fork(session.end)
      yield* settle
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      yield* Fiber.join(ending)
      assert.strictEqual(failureOf(yield* Fiber.join(renewing))._tag, "SessionEnded")
      assert.deepStrictEqual(server.state.calls, ["sign in"])
      assert.deepStrictEqual(server.state.revoked, ["0.0"])
      assert.isTrue((yield* row)!.dead)
      assert.deepStrictEqual(tokensOf(yield* all([session.current])), ["1.0"])
    }))

  it.scoped("revokes the row's value, even if a caller of this process reads the end before the answer", () =>
    Effect.gen(function*() {
      const { faults, join, server } = yield* makeFleet({ takes: 0 })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current])
      const gate = yield* Deferred.make<void>()
      faults.held = Deferred.await(gate)
      const ending = yield* Effect.fork(two.end)
      yield* settle
      faults.held = Effect.void
      assert.deepStrictEqual(tokensOf(yield* all([two.current])), ["1.0"])
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(ending)
      assert.deepStrictEqual(server.state.revoked, ["0.0"])
      assert.deepStrictEqual(tokensOf(yield* all([one.current, two.current])), ["1.0"])
    }))

  it.scoped("takes no longer than one call of a slow store and one revocation, however many there are", () =>
    Effect.gen(function*() {
      const { faults, join, row, server } = yield* makeFleet({ takes: 0 })
      const commit = yield* Deferred.make<void>()
      const session = yield* join({
        renew: (token, info) =>
          Effect.tap(server.renew(token, info), () => {
            faults.held = Deferred.await(commit)
          }),
        onEnd: (token) => Effect.delay(server.onEnd(token), "3 seconds")
      })
      yield* all([session.current])
      const renewing = yield* Effect.fork(Effect.exit(renewed(session)))
      yield* settle
      faults.held = faults.heldRead = Effect.sleep("1500 millis")
      const ending = yield* Effect.fork(session.end)
      yield* Effect.repeatN(Effect.zipRight(settle, TestClock.adjust("100 millis")), 49)
      yield* settle
      assert.isNotNull(ending.unsafePoll())
      assert.sameMembers(server.state.revoked, ["0.0", "0.1"])
      assert.strictEqual(reasonOf(yield* Fiber.join(renewing)), "SessionEnded")
      faults.held = faults.heldRead = Effect.void
      yield* TestClock.adjust("10 seconds")
      yield* settle
      assert.isTrue((yield* row)!.dead)
    }))

  it.scoped("by a process that has not noticed a renewal revokes the row's value", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet()
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      yield* all([renewed(one)])
      yield* all([two.end])
      assert.deepStrictEqual(server.state.revoked, ["0.1"])
    }))

  it.scoped("during another process's renewal: its commit is refused, and its value is revoked", () =>
    Effect.gen(function*() {
      const { join, row, server } = yield* makeFleet({ takes: 1000 })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      const renewing = yield* Effect.fork(Effect.exit(renewed(one)))
      yield* settle
      yield* all([two.end])
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(reasonOf(yield* inTime(Effect.flatten(Fiber.join(renewing)))), "Ended")
      assert.deepStrictEqual(server.state.revoked, ["0.0", "0.1"])
      assert.isTrue((yield* row)!.dead)
      assert.deepStrictEqual(tokensOf(yield* all([one.current, two.current])), ["1.0"])
    }))

  it.scoped("another process's sign-in during a renewal: its value is adopted, the renewal's is revoked", () =>
    Effect.gen(function*() {
      const { edit, join, server } = yield* makeFleet()
      const suspended = yield* Deferred.make<void>()
      const one = yield* join({
        renew: (token, info) => Effect.zipLeft(server.renew(token, info), Deferred.await(suspended))
      })
      const two = yield* join()
      yield* all([one.current, two.current])
      const renewing = yield* Effect.fork(renewed(one))
      yield* settle
      yield* edit((row) => ({ ...row, revision: row.revision + 1, leaseUntil: 0 }))
      assert.deepStrictEqual(tokensOf(yield* all([renewed(two)])), ["1.0"])
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0", "renew 0.0", "sign in"])
      yield* Deferred.succeed(suspended, undefined)
      assert.deepStrictEqual(tokensOf(yield* all([Fiber.join(renewing), one.current])), ["1.0"])
      assert.deepStrictEqual(server.state.revoked, ["0.1"])
    }))

  it.scoped("during a renewal of its own: the callers get SessionEnded, and the value is revoked", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({ takes: 1000 })
      const session = yield* join()
      yield* all([session.current])
      const renewing = yield* Effect.fork(Effect.exit(renewed(session)))
      yield* settle
      yield* all([session.end])
      assert.strictEqual(reasonOf(yield* Fiber.join(renewing)), "SessionEnded")
      yield* TestClock.adjust("2 seconds")
      yield* settle
      assert.deepStrictEqual(server.state.revoked, ["0.0", "0.1"])
    }))

  it.scoped("S14: a refresh that times out says with what its last attempt failed", () =>
    Effect.gen(function*() {
      const { join } = yield* makeFleet()
      const refused = new Refused({ why: "down" })
      const session = yield* join({ acquire: Effect.fail(refused), retry: Schedule.spaced("7 seconds") })
      const error = failureOf(yield* inTime(session.current))
      assert.isTrue(Predicate.isTagged(error, "RefreshTimeout") && "cause" in error && error.cause === refused)
    }))

  it.scoped("F3: an encoding that takes longer than the lease loses nothing, and the token is presented once", () =>
    Effect.gen(function*() {
      let encoding = Effect.void as Effect.Effect<void>
      const schema = Schema.transformOrFail(Schema.Any, Token, {
        strict: true,
        decode: (is): Effect.Effect<Token> => Effect.succeed(is as Token),
        encode: (is) => Effect.as(encoding, is)
      }) as never
      const { join, server } = yield* makeFleet({ schema, lease: "3 seconds", takes: 0 })
      const [one, other] = [yield* join(), yield* join()]
      yield* all([one.current, other.current])
      encoding = Effect.sleep("4500 millis")
      const renewing = yield* Effect.fork(inTime(renewed(one)))
      yield* settle
      const adopting = yield* Effect.fork(Effect.exit(renewed(other)))
      assert.strictEqual(nameOf(valueOf(yield* Fiber.join(renewing))), "0.1")
      assert.strictEqual(nameOf(valueOf(yield* Fiber.join(adopting))), "0.1")
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    }))

  it.scoped("while a new value is encoded: it is revoked, and not served even if its commit is answered late", () =>
    Effect.gen(function*() {
      const { faults, join, row, server } = yield* makeFleet({ takes: 0 })
      const [encoded, read, committed] = [
        yield* Deferred.make<void>(),
        yield* Deferred.make<void>(),
        yield* Deferred.make<void>()
      ]
      let encoding: Effect.Effect<void> = Effect.void
      const session = yield* join({
        schema: Schema.transformOrFail(Schema.Any, Token, {
          decode: (is) => Effect.succeed(is as Token),
          encode: (is) => Effect.as(encoding, is)
        }) as never
      })
      yield* all([session.current])
      encoding = Deferred.await(encoded)
      const renewing = yield* Effect.fork(Effect.exit(renewed(session)))
      yield* settle
      faults.heldRead = Deferred.await(read)
      const ending = yield* Effect.fork(session.end)
      yield* settle
      faults.heldRead = Effect.void
      faults.held = Deferred.await(committed)
      yield* Deferred.succeed(encoded, undefined)
      yield* settle
      faults.held = Effect.void
      yield* Deferred.succeed(read, undefined)
      yield* Fiber.join(ending)
      yield* Deferred.succeed(committed, undefined)
      yield* settle
      assert.strictEqual(reasonOf(yield* Fiber.join(renewing)), "SessionEnded")
      assert.isTrue((yield* row)!.dead)
      assert.deepStrictEqual([...server.state.revoked].sort(), ["0.0", "0.1"])
      assert.deepStrictEqual(tokensOf(yield* all([session.current])), ["1.0"])
    }))

  it.scoped("that is owed is written to a slow store, each of whose calls is answered in time", () =>
    Effect.gen(function*() {
      const { faults, join } = yield* makeFleet()
      const session = yield* join()
      yield* all([session.current])
      faults.isDown = true
      yield* inTime(session.end)
      faults.isDown = false
      faults.held = faults.heldRead = Effect.sleep("1200 millis")
      assert.strictEqual(nameOf(valueOf(yield* inTime(session.current))), "1.0")
    }))

  it.scoped("without the store is immediate for this process; the row follows, and no other sign-in is ended", () =>
    Effect.gen(function*() {
      const { faults, join, row, server } = yield* makeFleet()
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current, two.current])
      faults.isDown = true
      yield* all([one.end])
      assert.deepStrictEqual(server.state.revoked, ["0.0"])
      assert.strictEqual(reasonOf(yield* inTime(one.current)), "StoreUnavailable")
      faults.isDown = false
      yield* TestClock.adjust("10 seconds")
      yield* settle
      assert.isTrue((yield* row)!.dead)
      assert.deepStrictEqual(tokensOf(yield* all([two.current, one.current])), ["1.0"])
      assert.deepStrictEqual(server.state.revoked, ["0.0"])
    }))
})

describe("F11: clocks", () => {
  it.scoped("a lifetime is the remaining time at the commit, by the store's clock", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({ takes: 0 })
      const hour = 3_600_000
      // Each process computes the expiry by its own clock, which is wrong by an hour.
      const one = yield* join({ expiresAt: () => 600_000 })
      const two = yield* join({ expiresAt: () => 600_000 - hour })
      yield* all([one.current])
      yield* TestClock.adjust("1 minute")
      const adopted = valueOf(yield* inTime(two.current))
      assert.deepStrictEqual([nameOf(adopted), adopted.expiresAt, adopted.acquiredAt], ["0.0", 600_000, 0])
      yield* TestClock.adjust("10 minutes")
      yield* all([one.current])
      assert.deepStrictEqual(server.state.calls.slice(0, 2), ["sign in", "renew 0.0"])
    }))
})

describe("F11: a slow answer", () => {
  it.scoped("does not make an adopted value expire later", () =>
    Effect.gen(function*() {
      const { faults, join } = yield* makeFleet({ takes: 0, expiresAt: () => 600_000 })
      const [one, two] = [yield* join(), yield* join()]
      yield* all([one.current])
      faults.heldRead = Effect.sleep("1.5 seconds")
      const adopted = valueOf(yield* inTime(two.current))
      assert.deepStrictEqual([nameOf(adopted), adopted.expiresAt, adopted.acquiredAt], ["0.0", 600_000, 0])
    }))
})

describe("S6: closing", () => {
  it.scoped("one process's scope gives its lease back, and other processes go on immediately", () =>
    Effect.gen(function*() {
      const { join, server } = yield* makeFleet({ takes: 5000 })
      const scope = yield* Scope.make()
      const closing = yield* Scope.extend(join(), scope)
      const other = yield* join()
      yield* all([closing.current, other.current])
      const renewing = yield* Effect.fork(Effect.exit(renewed(closing)))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(reasonOf(yield* Fiber.join(renewing)), "SessionClosed")
      const since = yield* Effect.clock
      const before = since.unsafeCurrentTimeMillis()
      yield* all([renewed(other)])
      assert.isBelow(since.unsafeCurrentTimeMillis() - before, 7000)
      assert.isTrue(server.state.uncertain.at(-1))
    }))

  it.scoped("writes a value that is not in the row yet, so that no other process presents the spent token", () =>
    Effect.gen(function*() {
      const { faults, join, server } = yield* makeFleet({ takes: 0 })
      for (const isReached of [true, false]) {
        const [one, scope] = [yield* join(), yield* Scope.make()]
        const closing = yield* Scope.extend(
          join({
            renew: (token, info) =>
              Effect.zipLeft(
                server.renew(token, info),
                Effect.sync(() => {
                  // The store answers late, or not before the session closes.
                  if (isReached) faults.heldRead = Effect.sleep("1 second")
                  else faults.isDown = true
                })
              )
          }),
          scope
        )
        const [, stale] = yield* all([closing.current, one.current])
        const renewing = yield* Effect.fork(Effect.exit(renewed(closing)))
        yield* settle
        Object.assign(faults, { isDown: false })
        valueOf(yield* inTime(Scope.close(scope, Exit.void)))
        yield* Fiber.join(renewing)
        faults.heldRead = Effect.void
        assert.deepStrictEqual(tokensOf(yield* all([one.refresh(valueOf(stale!))])), [isReached ? "0.1" : "0.2"])
      }
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0", "renew 0.1"])
    }))

  it.scoped("waits for a call of the store that still runs, and no longer", () =>
    Effect.gen(function*() {
      const { faults, join } = yield* makeFleet()
      const scope = yield* Scope.make()
      const session = yield* Scope.extend(join(), scope)
      faults.heldRead = Effect.uninterruptible(Effect.sleep("300 millis"))
      yield* Effect.fork(Effect.ignore(session.current))
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("299 millis")
      yield* settle
      assert.isNull(closing.unsafePoll())
      yield* TestClock.adjust("1 millis")
      yield* settle
      assert.isNotNull(closing.unsafePoll())
    }))

  /** Runs the effect, and gives how long it took on the test's clock, in milliseconds. */
  const millisOf = <E>(effect: Effect.Effect<unknown, E>) =>
    Effect.gen(function*() {
      const clock = yield* Effect.clock
      const since = clock.unsafeCurrentTimeMillis()
      const exit = yield* inTime(effect)
      return { exit, millis: clock.unsafeCurrentTimeMillis() - since }
    })

  const neverEncoded = Schema.transformOrFail(Schema.String, Schema.String, {
    strict: true,
    decode: Effect.succeed,
    encode: () => Effect.uninterruptible(Effect.never)
  })
  const never = Schedule.mapEffect(Schedule.spaced("1 second"), () => Effect.uninterruptible(Effect.never))

  it.scoped.each(
    [
      ["a schema", { schema: neverEncoded, acquire: Effect.succeed("") }, "Unreadable", 5000],
      ["a cooldown's schedule", { schema: Schema.String, acquire: Effect.fail("down"), cooldown: never }, "down", 1000]
    ] as const
  )(
    "does not wait for ever for %s that never answers, nor does a caller",
    ([, options, failure, longest]) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const session = yield* SharedSession.make<string, string, string>({
          key: "k",
          renew: Effect.succeed,
          ...options
        }).pipe(Effect.provide(SessionStore.layerMemory), Scope.extend(scope))
        const { exit, millis } = yield* millisOf(session.current)
        const error = failureOf(exit)
        assert.strictEqual(Predicate.hasProperty(error, "reason") ? error.reason : error, failure)
        assert.isAtMost(millis, longest + 1000)
        assert.isAtMost((yield* millisOf(Scope.close(scope, Exit.void))).millis, 3000)
      })
  )

  it.scoped("does not wait for ever for a schema that never decodes, nor does `end`", () =>
    Effect.gen(function*() {
      const neverDecoded = Schema.transformOrFail(Schema.String, Schema.String, {
        strict: true,
        decode: () => Effect.uninterruptible(Effect.never),
        encode: ParseResult.succeed
      })
      const scope = yield* Scope.make()
      const make = (schema: Schema.Schema<string>) =>
        SharedSession.make({ key: "k", schema, acquire: Effect.succeed("v"), renew: Effect.succeed })
      const [one, other] = yield* Effect.all([make(Schema.String), Scope.extend(make(neverDecoded), scope)]).pipe(
        Effect.provide(SessionStore.layerMemory)
      )
      yield* one.current
      const { exit, millis } = yield* millisOf(other.current)
      assert.strictEqual((failureOf(exit) as SharedSession.SharedSessionError).reason, "Unreadable")
      assert.isAtMost(millis, 6_000)
      assert.isAtMost((yield* millisOf(other.end)).millis, 12_000)
      assert.isAtMost((yield* millisOf(Scope.close(scope, Exit.void))).millis, 4_000)
    }))

  it.scoped("does not wait for ever for a store whose reads no longer follow its writes, and hardly calls it", () =>
    Effect.gen(function*() {
      for (const isObtained of [false, true]) {
        const memory = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
        const scope = yield* Scope.make()
        let isFrozen = false
        let calls = 0
        const session = yield* SharedSession.make({
          key: "k",
          schema: Schema.String,
          acquire: Effect.sync(() => {
            isFrozen = true
            return ""
          }),
          renew: Effect.succeed
        }).pipe(
          Effect.provideService(SessionStore.SessionStore, {
            ...memory,
            compareAndSet: (...args) =>
              Effect.suspend(() => {
                calls++
                return isFrozen ? Effect.succeed(false) : memory.compareAndSet(...args)
              })
          }),
          Scope.extend(scope)
        )
        isFrozen = !isObtained
        const { exit, millis } = yield* millisOf(session.current)
        assert.strictEqual((failureOf(exit) as SharedSession.SharedSessionError).reason, "StoreUnavailable")
        assert.isAtMost(millis, 10_000)
        yield* TestClock.adjust("1 minute")
        assert.isAtMost((yield* millisOf(Scope.close(scope, Exit.void))).millis, 5000)
        assert.isAtMost(calls, 500)
      }
    }))

  it.scoped("does not wait for ever for a store that does not end its notices", () =>
    Effect.gen(function*() {
      const memory = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
      const scope = yield* Scope.make()
      yield* SharedSession.make({
        key: "k",
        schema: Schema.String,
        acquire: Effect.succeed(""),
        renew: Effect.succeed
      }).pipe(
        Effect.provideService(SessionStore.SessionStore, {
          ...memory,
          notices: Stream.ensuring(Stream.never, Effect.never)
        }),
        Scope.extend(scope)
      )
      yield* settle
      valueOf(yield* inTime(Scope.close(scope, Exit.void)))
    }))
})
