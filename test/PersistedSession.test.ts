import * as PlatformError from "@effect/platform/Error"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { NodeKeyValueStore } from "effect-holdfast/node"
import * as PersistedSession from "effect-holdfast/PersistedSession"
import type * as Session from "effect-holdfast/Session"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inspect } from "node:util"
import { failureOf } from "./support/exits.js"
import { type Memory, memory } from "./support/keyValueMemory.js"
import { settle } from "./support/settle.js"

const Token = Schema.Struct({ access: Schema.Redacted(Schema.String), refresh: Schema.String })
type Token = typeof Token.Type

const token = (name: string): Token => ({ access: Redacted.make(`canary-${name}`), refresh: name })

class Refused {
  readonly _tag = "Refused"
}

const upstream = () => {
  const calls: Array<string> = []
  let count = 0
  return {
    calls,
    acquire: Effect.sync(() => {
      calls.push("acquire")
      return token(`t${++count}`)
    }),
    renew: (current: Token) =>
      Effect.sync(() => {
        calls.push(`renew ${current.refresh}`)
        return token(`t${++count}`)
      })
  }
}

const options = { key: "api", schema: Token } as const

const inStore = <A, E, R>(
  { store }: Pick<Memory, "store">,
  effect: Effect.Effect<A, E, R | KeyValueStore.KeyValueStore>
): Effect.Effect<A, E, Exclude<R, KeyValueStore.KeyValueStore>> =>
  Effect.provideService(effect, KeyValueStore.KeyValueStore, store)

/** One run of a process: everything that is made in it ends with it. */
const run = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Scope.Scope>> =>
  Effect.scoped(effect)

const key = (byte: number) => Redacted.make(new Uint8Array(32).fill(byte))

describe("a session that is persisted", () => {
  it.scoped("continues with its value after a restart, without asking the upstream", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire, calls, renew } = upstream()
      const make = inStore(disk, PersistedSession.make({ ...options, acquire, renew }))
      const first = yield* run(Effect.flatMap(make, (session) => session.current))
      const session = yield* make
      const second = yield* session.current
      assert.strictEqual(Redacted.value(second.value.access), Redacted.value(first.value.access))
      assert.deepStrictEqual(calls, ["acquire"])
      yield* session.refresh(second)
      assert.deepStrictEqual(calls, ["acquire", "renew t1"])
      const third = yield* Effect.flatMap(make, (session) => session.current)
      assert.strictEqual(third.value.refresh, "t2")
    }))

  it.scoped("has written a value before any caller gets it", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const written = yield* Deferred.make<void>()
      disk.state.during = Deferred.await(written)
      const session = yield* inStore(disk, PersistedSession.make({ ...options, acquire }))
      const reader = yield* Effect.fork(session.current)
      yield* Effect.yieldNow({ priority: 100 })
      assert.isNull(reader.unsafePoll())
      yield* Deferred.succeed(written, undefined)
      yield* Fiber.join(reader)
      assert.strictEqual(disk.values.size, 1)
    }))

  it.scoped("keeps a value that could not be written, and writes that one when asked again", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire, calls, renew } = upstream()
      const session = yield* inStore(disk, PersistedSession.make({ ...options, acquire, renew }))
      disk.state.broken = true
      const error = yield* Effect.flip(session.current)
      assert.instanceOf(error, PersistedSession.PersistenceError)
      assert.strictEqual(error.reason, "Store")
      assert.notInclude(inspect(error, { depth: 9 }) + JSON.stringify(error) + String(error), "canary")
      disk.state.broken = false
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.current).value.refresh, "t1")
      assert.deepStrictEqual(calls, ["acquire"])
    }))

  it.scoped("O6: counts the age of a value over restarts", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire, calls, renew } = upstream()
      const make = inStore(disk, PersistedSession.make({ ...options, acquire, renew, maxAge: "1 hour" }))
      const first = yield* run(Effect.flatMap(make, (session) => session.current))
      yield* TestClock.adjust("40 minutes")
      const session = yield* make
      assert.strictEqual((yield* session.current).expiresAt, first.expiresAt)
      yield* TestClock.adjust("20 minutes")
      assert.strictEqual((yield* session.current).value.refresh, "t2")
      assert.deepStrictEqual(calls, ["acquire", "renew t1"])
    }))

  it.scoped("is taken for expired if its time came from a clock that was not yet set", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire, calls, renew } = upstream()
      const make = inStore(disk, PersistedSession.make({ ...options, acquire, renew, expiresAt: () => 3_600_000 }))
      yield* run(Effect.flatMap(make, (session) => session.current))
      yield* TestClock.setTime(1_800_000_000_000)
      const session = yield* make
      yield* Effect.exit(session.current)
      assert.deepStrictEqual(calls, ["acquire", "renew t1"])
    }))

  it.scoped("takes the earlier of the value's own expiry and its age", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const make = (millis: number) =>
        inStore(disk, PersistedSession.make({ ...options, acquire, maxAge: "1 hour", expiresAt: () => millis }))
      yield* run(Effect.flatMap(make(600_000), (session) => session.current))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Effect.flatMap(make(600_000), (session) => session.current)).expiresAt, 600_000)
      assert.strictEqual((yield* Effect.flatMap(make(6_000_000), (session) => session.current)).expiresAt, 3_600_000)
    }))

  it.scoped("is forgotten by `end` before it is revoked, and by a failure that is fatal", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const storedAtRevocation: Array<number> = []
      const make = inStore(
        disk,
        PersistedSession.make({
          ...options,
          acquire: Effect.suspend(() => disk.state.writes > 1 ? Effect.fail(new Refused()) : acquire),
          renew: () => Effect.fail(new Refused()),
          fatal: () => true,
          cooldown: 0,
          onEnd: () => Effect.sync(() => storedAtRevocation.push(disk.values.size))
        })
      )
      const session = yield* make
      yield* session.current
      yield* session.end
      assert.deepStrictEqual(storedAtRevocation, [0])
      const generation = yield* session.current
      assert.strictEqual(disk.values.size, 1)
      assert.instanceOf(yield* Effect.flip(session.refresh(generation)), Refused)
      assert.strictEqual(disk.values.size, 0)
    }))

  it.scoped("without a `renew` forgets a value that the server has refused for good", () =>
    Effect.gen(function*() {
      const disk = memory()
      let refused = false
      const session = yield* inStore(
        disk,
        PersistedSession.make({
          ...options,
          acquire: Effect.suspend(() => refused ? Effect.fail(new Refused()) : Effect.succeed(token("one"))),
          fatal: () => true
        })
      )
      const generation = yield* session.current
      refused = true
      yield* Effect.flip(session.refresh(generation))
      assert.strictEqual(disk.values.size, 0)
    }))

  it.scoped("signs out even if the store fails, and logs that the value is still there", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const logged: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => logged.push(`${logLevel.label} ${message}`))
      const session = yield* inStore(disk, PersistedSession.make({ ...options, acquire })).pipe(
        Effect.provide(Logger.replace(Logger.defaultLogger, logger))
      )
      yield* session.current
      disk.state.broken = true
      yield* session.end
      assert.deepStrictEqual(logged, [
        "WARN session: not forgotten: the stored value could not be removed: Busy"
      ])
    }))

  it.scoped.each(["during its write", "after its write"])(
    "O3: `end` removes the stored value of a concurrent renewal before it revokes the value: %s",
    (when) =>
      Effect.gen(function*() {
        const disk = memory()
        const { acquire, renew } = upstream()
        const [isWriting, written] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
        const writing = Effect.zipRight(Deferred.succeed(isWriting, undefined), Deferred.await(written))
        const isOwn = when === "after its write"
        const revoked: Array<readonly [string, number]> = []
        const session = yield* inStore(
          disk,
          PersistedSession.make({
            ...options,
            acquire,
            renew,
            onRenewed: ({ number }) => isOwn && number === 1 ? writing : Effect.void,
            onEnd: ({ refresh }) => Effect.sync(() => revoked.push([refresh, disk.values.size]))
          })
        )
        const generation = yield* session.current
        if (!isOwn) disk.state.during = writing
        const refreshing = yield* Effect.fork(session.refresh(generation))
        yield* Deferred.await(isWriting)
        const ender = yield* Effect.fork(session.end)
        yield* settle
        if (isOwn) yield* Fiber.join(ender)
        yield* Deferred.succeed(written, undefined)
        yield* Fiber.join(ender)
        yield* settle
        assert.strictEqual(disk.state.writes, 2)
        assert.deepStrictEqual(revoked.toSorted(), [["t1", 0], ["t2", 0]])
        assert.strictEqual(failureOf(yield* Fiber.await(refreshing))._tag, "SessionEnded")
      })
  )

  it.scoped("O3: `end` waits two seconds for a store that hangs; the value of a later sign-in is not removed", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const answer = yield* Deferred.make<void>()
      const store = KeyValueStore.makeStringOnly({
        ...disk.store,
        remove: (key) => Effect.zipRight(Deferred.await(answer), disk.store.remove(key))
      })
      const logged: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => logged.push(`${logLevel.label} ${message}`))
      const revoked: Array<string> = []
      const session = yield* inStore(
        { store },
        PersistedSession.make({
          ...options,
          acquire,
          onEnd: ({ refresh }) => Effect.sync(() => revoked.push(refresh))
        })
      ).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
      yield* session.current
      const ender = yield* Effect.fork(session.end)
      yield* TestClock.adjust("1999 millis")
      assert.isNull(ender.unsafePoll())
      assert.deepStrictEqual(revoked, [])
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(ender)
      assert.deepStrictEqual(revoked, ["t1"])
      assert.deepStrictEqual(logged, ["WARN session: not forgotten yet: the store takes more than 2s"])
      const signingIn = yield* Effect.fork(session.current)
      yield* settle
      assert.strictEqual(disk.values.size, 1, "the value that was ended")
      yield* Deferred.succeed(answer, undefined)
      assert.strictEqual((yield* Fiber.join(signingIn)).value.refresh, "t2")
      yield* settle
      assert.include(disk.values.get("api"), "t2")
    }))

  it.effect("O3: closing the session's scope waits neither for a removal that hangs nor for the store to be read", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const hanging = (operation: "get" | "remove") => ({
        store: KeyValueStore.makeStringOnly({ ...disk.store, [operation]: () => Effect.never })
      })
      const scope = yield* Scope.make()
      const session = yield* inStore(hanging("remove"), PersistedSession.make({ ...options, acquire })).pipe(
        Scope.extend(scope)
      )
      yield* session.current
      const ender = yield* Effect.fork(session.end)
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(ender)
      yield* Scope.close(scope, Exit.void)
      const making = yield* Effect.fork(run(inStore(hanging("get"), PersistedSession.make({ ...options, acquire }))))
      yield* settle
      yield* Fiber.interrupt(making)
    }))

  it.effect("closing the session's scope waits two seconds for a write, which still goes on to its end", () =>
    Effect.gen(function*() {
      for (const isEnded of [false, true]) {
        const disk = memory()
        const answer = yield* Deferred.make<void>()
        disk.state.during = Deferred.await(answer)
        const { acquire } = upstream()
        const scope = yield* Scope.make()
        const session = yield* inStore(disk, PersistedSession.make({ ...options, acquire })).pipe(Scope.extend(scope))
        const current = yield* Effect.fork(session.current)
        yield* settle
        if (isEnded) yield* session.end
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("1999 millis")
        assert.isNull(closing.unsafePoll())
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(closing)
        assert.strictEqual(failureOf(yield* Fiber.await(current))._tag, isEnded ? "SessionEnded" : "SessionClosed")
        assert.strictEqual(disk.values.size, 0)
        yield* Deferred.succeed(answer, undefined)
        yield* settle
        assert.strictEqual(disk.values.size, 1)
      }
    }))

  it.scoped("`end` also removes a value that a failed write may have left", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const store = KeyValueStore.makeStringOnly({
        ...disk.store,
        set: (key, value) =>
          Effect.zipRight(
            disk.store.set(key, value),
            new PlatformError.SystemError({ reason: "TimedOut", module: "KeyValueStore", method: "set" })
          )
      })
      const session = yield* inStore({ store }, PersistedSession.make({ ...options, acquire }))
      yield* Effect.flip(session.current)
      assert.strictEqual(disk.values.size, 1)
      yield* session.end
      assert.strictEqual(disk.values.size, 0)
    }))

  it.scoped("runs its own `onRenewed` after the write, with the same retries", () =>
    Effect.gen(function*() {
      const disk = memory()
      const { acquire } = upstream()
      const seen: Array<number> = []
      const session = yield* inStore(
        disk,
        PersistedSession.make({
          ...options,
          acquire,
          onRenewed: () => Effect.sync(() => seen.push(disk.values.size)),
          cooldown: Duration.seconds(3)
        })
      )
      yield* session.current
      assert.deepStrictEqual(seen, [1])
    }))
})

describe("the text in the store", () => {
  const acquire = Effect.succeed(token("fresh"))
  const stored = (encryptWith?: PersistedSession.StoreOptions["encryptWith"]) =>
    Effect.gen(function*() {
      const disk = memory()
      yield* run(
        Effect.flatMap(
          inStore(disk, PersistedSession.make({ ...options, encryptWith, acquire: Effect.succeed(token("stored")) })),
          (session) => session.current
        )
      )
      return disk
    })
  const read = (disk: Memory, more: Partial<PersistedSession.Options<Token, any>> = {}) =>
    run(Effect.flatMap(
      inStore(disk, PersistedSession.make({ ...options, acquire, ...more })),
      (session) => Effect.map(session.current, ({ value }) => value.refresh)
    ))

  it.effect("shows no part of the value if a key is given, and is written again with the newest key", () =>
    Effect.gen(function*() {
      const disk = yield* stored(key(1))
      const before = disk.values.get("api")!
      assert.notInclude(before, "stored")
      assert.notInclude(Buffer.from(before.split(".").at(-1)!, "base64url").toString("latin1"), "stored")
      assert.strictEqual(yield* read(disk, { encryptWith: [key(2), key(1)] }), "stored")
      const after = disk.values.get("api")!
      assert.notStrictEqual(after, before)
      assert.strictEqual(yield* read(disk, { encryptWith: [key(2)] }), "stored")
      assert.strictEqual(disk.values.get("api"), after)
    }))

  it.effect("is read even if it cannot be written again", () =>
    Effect.gen(function*() {
      const disk = yield* stored(key(1))
      const readOnly = KeyValueStore.makeStringOnly({
        ...disk.store,
        set: () => new PlatformError.SystemError({ reason: "PermissionDenied", module: "KeyValueStore", method: "set" })
      })
      assert.strictEqual(yield* read({ ...disk, store: readOnly }, { encryptWith: [key(2), key(1)] }), "stored")
    }))

  it.effect("takes keys as bytes and as base64, padded or not, for URLs or not", () =>
    Effect.gen(function*() {
      const bytes = Uint8Array.from({ length: 32 }, (_, n) => 255 - n)
      const disk = yield* stored(Redacted.make(bytes))
      const base64 = Buffer.from(bytes).toString("base64")
      const forms = [base64, base64.replace(/=+$/, ""), Buffer.from(bytes).toString("base64url"), ` ${base64}\n`]
      for (const form of forms) assert.strictEqual(yield* read(disk, { encryptWith: Redacted.make(form) }), "stored")
    }))

  it.effect("O6: is an error if it cannot be read, and is never shown in it", () =>
    Effect.gen(function*() {
      const cases: Array<readonly [string, Memory, Partial<PersistedSession.Options<Token, any>>]> = []
      const clear = yield* stored()
      const sealed = yield* stored(key(1))
      const changed = (disk: Memory, change: (text: string) => string) => {
        const other = memory()
        other.values.set("api", change(disk.values.get("api")!))
        return other
      }
      const lastChanged = (text: string) => text.slice(0, -2) + (text.at(-2) === "A" ? "B" : "A") + text.at(-1)
      for (const cut of [0, 1, 5, 12, 24, 40]) {
        cases.push(["cut short", changed(clear, (text) => text.slice(0, cut)), {}])
        cases.push(["cut short", changed(sealed, (text) => text.slice(0, cut)), { encryptWith: key(1) }])
      }
      cases.push(
        ["half", changed(clear, (text) => text.slice(0, text.length / 2)), {}],
        ["half", changed(sealed, (text) => text.slice(0, text.length / 2)), { encryptWith: key(1) }],
        ["changed", changed(clear, lastChanged), {}],
        ["changed", changed(sealed, lastChanged), { encryptWith: key(1) }],
        ["another key", sealed, { encryptWith: key(2) }],
        ["no key", sealed, {}],
        ["in clear", clear, { encryptWith: key(1) }],
        ["not ours", changed(clear, () => `{"access":"canary-stored"}`), {}],
        ["another schema", clear, { schema: Schema.Struct({ other: Schema.String }) as never }],
        ["another name", changed(clear, (text) => text), { key: "other" }],
        ["another name", changed(sealed, (text) => text), { key: "other", encryptWith: key(1) }]
      )
      for (const [what, disk, more] of cases) {
        if (more.key !== undefined) disk.values.set(more.key, disk.values.get("api")!)
        const before = [...disk.values]
        const error = yield* Effect.flip(read(disk, more))
        assert.instanceOf(error, PersistedSession.PersistenceError, what)
        assert.strictEqual((error as PersistedSession.PersistenceError).reason, "Unreadable", what)
        assert.notInclude(inspect(error, { depth: 9 }) + JSON.stringify(error) + String(error), "canary", what)
        assert.notInclude(inspect(error, { depth: 9 }), "stored\"", what)
        assert.deepStrictEqual([...disk.values], before, what)
        assert.strictEqual(yield* read(disk, { ...more, onUnreadable: "signIn", schema: Token }), "fresh", what)
      }
    }))

  it.effect("O6: is an error without the value if the schema throws, or a sign-in, and `end` still revokes", () =>
    Effect.gen(function*() {
      const schema = (thrower: "decode" | "encode") => {
        const run = (side: "decode" | "encode") => (text: string) => {
          if (side === thrower) throw new Error(`canary: cannot ${side} ${text}`)
          return text
        }
        return Schema.transform(Schema.String, Schema.String, {
          strict: true,
          decode: run("decode"),
          encode: run("encode")
        })
      }
      const disk = memory()
      const text = (more: Partial<PersistedSession.Options<string, string>>) =>
        run(Effect.flatMap(
          inStore(
            disk,
            PersistedSession.make({ key: "api", schema: Schema.String, acquire: Effect.succeed("canary"), ...more })
          ),
          (session) => session.current
        ))
      yield* text({})
      for (
        const error of [
          yield* Effect.flip(text({ schema: schema("decode") })),
          yield* Effect.flip(text({ schema: schema("encode"), key: "other" }))
        ]
      ) {
        assert.deepInclude(error, { _tag: "PersistenceError", reason: "Unreadable" })
        assert.notInclude(inspect(error, { depth: 9 }) + String(error), "canary")
      }
      yield* text({ schema: schema("decode"), onUnreadable: "signIn" })
    }))

  it.scoped("O3, O6: a store that throws is one that fails", () =>
    Effect.gen(function*() {
      const disk = memory()
      const revoked: Array<string> = []
      let isDown = false
      const thrown = <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.suspend(() => {
          if (isDown) throw new Error("canary")
          return effect
        })
      const store = {
        ...disk.store,
        get: (key: string) => thrown(disk.store.get(key)),
        set: (key: string, value: string) => thrown(disk.store.set(key, value)),
        remove: (key: string) => thrown(disk.store.remove(key))
      } as typeof disk.store
      const make = inStore(
        { store },
        PersistedSession.make({
          key: "api",
          schema: Schema.String,
          acquire: Effect.succeed("value"),
          renew: () => Effect.succeed("next"),
          onEnd: (value) => Effect.sync(() => revoked.push(value))
        })
      )
      const session = yield* make
      const current = yield* session.current
      isDown = true
      for (const error of [yield* Effect.flip(make), yield* Effect.flip(session.refresh(current))]) {
        assert.deepInclude(error, { _tag: "PersistenceError", reason: "Store" })
        assert.notInclude(inspect(error, { depth: 9 }) + String(error), "canary")
      }
      yield* session.end
      assert.include(revoked, "next")
    }))

  const noJson: ReadonlyArray<readonly [string, Schema.Schema<any>, unknown]> = [
    ["a bigint", Schema.BigIntFromSelf, 5n],
    ["nothing", Schema.Undefined, undefined],
    ["NaN", Schema.Number, NaN],
    ["a date", Schema.DateFromSelf, new Date(0)],
    ["a map", Schema.Struct({ map: Schema.Any }), { map: new Map([["canary", 1]]) }],
    ["a list with a hole", Schema.Array(Schema.Any), [1, undefined]]
  ]

  it.scoped.each(noJson)(
    "O6: is reported when it is written, if its encoded side is not JSON: %s",
    ([, schema, value]) =>
      Effect.gen(function*() {
        const disk = memory()
        const make = PersistedSession.make({ key: "api", schema, acquire: Effect.succeed(value) })
        const error = yield* Effect.flip(Effect.flatMap(inStore(disk, make), (session) => session.current))
        assert.deepInclude(error, { _tag: "PersistenceError", reason: "Unreadable", key: "api" })
        assert.strictEqual(disk.values.size, 0)
      })
  )

  it.effect("O6: is not considered absent when the store fails", () =>
    Effect.gen(function*() {
      const disk = yield* stored()
      disk.state.broken = true
      const error = yield* Effect.flip(read(disk, { onUnreadable: "signIn" }))
      assert.deepInclude(error, { _tag: "PersistenceError", reason: "Store", key: "api" })
    }))

  it.effect("names the invalid option, and never shows a key", () =>
    Effect.gen(function*() {
      const bad: Array<readonly [string, Partial<PersistedSession.Options<Token, any>>]> = [
        ["key", { key: "" }],
        ["encryptWith", { encryptWith: [] }],
        ["encryptWith", { encryptWith: Redacted.make("canary") }],
        ["encryptWith", { encryptWith: [key(1), Redacted.make(new Uint8Array(31))] }],
        ["encryptWith", { encryptWith: "canary" as never }],
        ["onUnreadable", { onUnreadable: "ignore" as never }],
        ["maxAge", { maxAge: -1 }],
        ["timeout", { timeout: -1 }],
        ["schema", { schema: null as never }],
        ["acquire", { acquire: "canary" as never }],
        ["acquire", { acquire: Promise.resolve("canary") as never }],
        ["renew", { renew: Effect.succeed("canary") as never }],
        ["onRenewed", { onRenewed: null as never }],
        ["onEnd", { onEnd: null as never }],
        ["fatal", { fatal: true as never }],
        ["expiresAt", { expiresAt: 1 as never }],
        ["retry", { retry: 3 as never }],
        ["budget", { budget: 3 as never }],
        ["name", { name: null as never }]
      ]
      for (const [option, more] of bad) {
        const error = yield* Effect.flip(read(memory(), more))
        assert.deepInclude(error, { _tag: "InvalidOptions", option })
        assert.notInclude(inspect(error) + String(error), "canary")
      }
      const nothing = PersistedSession.make(null as never).pipe(Effect.provide(KeyValueStore.layerMemory))
      assert.deepInclude(yield* Effect.flip(Effect.scoped(nothing)), { _tag: "InvalidOptions", option: "options" })
    }))

  it.scoped("may be files", () =>
    Effect.gen(function*() {
      const path = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-"))),
        (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
      )
      class Api extends Context.Tag("Api")<Api, Session.Session<Token, PersistedSession.PersistenceError>>() {}
      const { acquire, calls } = upstream()
      const layer = Layer.provide(
        PersistedSession.layer(Api, { ...options, acquire, encryptWith: key(3) }),
        NodeKeyValueStore.layerFileSystem(path)
      )
      const current = Effect.provide(Effect.flatMap(Api, (session) => session.current), layer)
      assert.strictEqual((yield* current).value.refresh, "t1")
      assert.strictEqual((yield* current).value.refresh, "t1")
      assert.deepStrictEqual(calls, ["acquire"])
    }))
})
