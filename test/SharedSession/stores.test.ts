import { assert, describe, it } from "@effect/vitest"
import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, vi } from "vitest"
import { hasBootId } from "../support/tools.js"
import { eventually } from "../support/webSocketServer.js"
import { contract, row, sharedContract } from "./storeContract.js"

const root = mkdtempSync(join(tmpdir(), "holdfast-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
afterEach(() => vi.restoreAllMocks())
let folders = 0
const place = () => join(root, String(folders++))

describe("a store in memory", () => contract(() => SessionStore.layerMemory, { hasNotices: true }))

describe("a store in a directory", () => {
  sharedContract(() => ({ kind: "file", directory: place() }), { hasNotices: true })

  const open = (directory: string) =>
    Effect.map(Layer.build(FileSessionStore.layer({ directory })), Context.get(SessionStore.SessionStore))
  it.scopedLive("is found from the working directory in which it was opened, whatever that is later", () =>
    Effect.gen(function*() {
      const cwd = vi.spyOn(process, "cwd").mockReturnValue(root)
      const directory = String(folders++)
      const { compareAndSet } = yield* open(directory)
      cwd.mockRestore()
      assert.isTrue(yield* compareAndSet("k", undefined, row))
      assert.isNotEmpty(readdirSync(join(root, directory)))
    }))

  it.scopedLive("notifies again after its directory was deleted", () =>
    Effect.gen(function*() {
      const directory = place()
      const store = yield* open(directory)
      const heard: Array<string> = []
      yield* Effect.forkScoped(Stream.runForEach(store.notices, (key) => Effect.sync(() => heard.push(key))))
      // The folders that are deleted cause notices, too, so each step has a key of its own.
      const isHeard = (key: string) =>
        Effect.gen(function*() {
          yield* store.read(key)
          let revision = 0
          const write = Effect.suspend(() =>
            store.compareAndSet(key, revision || undefined, { ...row, revision: ++revision })
          )
          yield* Effect.repeat(Effect.zipRight(write, Effect.sleep("50 millis")), { until: () => heard.includes(key) })
        })
      yield* isHeard("before")
      rmSync(directory, { recursive: true })
      yield* isHeard("deleted")
      // Many file systems give the new directory the inode of the old one.
      const { ino } = statSync(directory)
      for (let made = 0; made < 50 && (made === 0 || statSync(directory).ino !== ino); made++) {
        rmSync(directory, { recursive: true })
        mkdirSync(directory)
      }
      yield* isHeard("made anew")
    }))

  describe.skipIf(!hasBootId)("and its clock", () => {
    const timeOf = ({ read }: SessionStore.Service) => Effect.map(read("nobody's"), ({ now }) => now)
    const hour = 3_600_000
    const setClock = (by: number) => {
      const { now } = Date
      vi.spyOn(Date, "now").mockImplementation(() => now() + by)
    }

    it.scopedLive("is the same for all processes, whatever the host's clock is set to", () =>
      Effect.gen(function*() {
        const directory = place()
        const one = yield* open(directory)
        const before = yield* timeOf(one)
        setClock(hour)
        const other = yield* open(directory)
        const times = [before, yield* timeOf(one), yield* timeOf(other), yield* timeOf(one)]
        assert.deepStrictEqual(times, [...times].sort((a, b) => a - b))
        assert.isBelow(times.at(-1)! - before, hour)
      }))

    it.scopedLive("is the same for all, though its file or the whole directory was deleted meanwhile", () =>
      Effect.gen(function*() {
        const directory = place()
        const one = yield* open(directory)
        const [name] = readdirSync(directory)
        const before = yield* timeOf(one)
        setClock(hour)
        rmSync(join(directory, name!))
        assert.isBelow((yield* timeOf(one)) - before, hour)
        assert.isBelow((yield* timeOf(yield* open(directory))) - before, hour, "a process had written the file again")

        rmSync(directory, { recursive: true })
        const other = yield* open(directory)
        const times = [yield* timeOf(other), yield* timeOf(one), yield* timeOf(other)]
        assert.deepStrictEqual(times, [...times].sort((a, b) => a - b))
      }))

    it.scopedLive("does not need what the directory holds besides, nor rows that cannot be read", () =>
      Effect.gen(function*() {
        const directory = place()
        for (const folder of ["lost+found", "0".repeat(32)]) {
          mkdirSync(join(directory, folder, "1".repeat(16)), { recursive: true })
        }
        const { compareAndSet, read } = yield* open(directory)
        assert.isTrue(yield* compareAndSet("k", undefined, row))
        assert.deepStrictEqual(Option.getOrThrow((yield* read("k")).row), row)
      }))

    it.scopedLive("F1: does not end a lease when the host's clock is set: the value is presented once", () =>
      Effect.gen(function*() {
        const directory = place()
        const hasSpent = yield* Deferred.make<void>()
        const answers = yield* Deferred.make<void>()
        let reads = 0
        let renewals = 0
        const session = Effect.gen(function*() {
          const store = yield* open(directory)
          const counting = { ...store, read: (key: string) => Effect.suspend(() => (reads++, store.read(key))) }
          return yield* SharedSession.make({
            key: "api",
            schema: Schema.Number,
            acquire: Effect.succeed(0),
            renew: (n) =>
              Effect.suspend(() => (renewals++, Deferred.succeed(hasSpent, undefined))).pipe(
                Effect.zipRight(Deferred.await(answers)),
                Effect.as(n + 1)
              )
          }).pipe(Effect.provideService(SessionStore.SessionStore, counting))
        })
        const [one, two] = [yield* session, yield* session]
        const renewed = ({ current, refresh }: typeof one) => Effect.flatMap(current, refresh)
        yield* one.current
        yield* two.current
        const first = yield* Effect.fork(renewed(one))
        yield* Deferred.await(hasSpent)
        setClock(hour)
        const before = reads
        const second = yield* Effect.fork(renewed(two))
        yield* eventually(() => reads >= before + 3)
        assert.strictEqual(renewals, 1)
        yield* Deferred.succeed(answers, undefined)
        assert.deepStrictEqual([(yield* Fiber.join(first)).value, (yield* Fiber.join(second)).value], [1, 1])
        assert.strictEqual(renewals, 1)
      }))

    it.scopedLive("starts no earlier than the rows, even if the host's clock is wrong when the host starts", () =>
      Effect.gen(function*() {
        const directory = place()
        const one = yield* open(directory)
        assert.isTrue(yield* one.compareAndSet("k", undefined, row))
        const clock = () => readdirSync(directory).filter((name) => name.startsWith("clock-"))
        const [name] = clock()
        rmSync(join(directory, name!))
        writeFileSync(join(directory, "clock-00000000-0000-0000-0000-000000000000-1"), "0")
        setClock(-1000 * hour)
        assert.isAtLeast(yield* timeOf(yield* open(directory)), row.revision)
        assert.deepStrictEqual(clock(), [name], "the file of an earlier start is removed")

        writeFileSync(join(directory, name!), "noon")
        const error = yield* Effect.flip(open(directory))
        assert.include(error, { _tag: "StoreError", operation: "open" })
        assert.include(String((error as SessionStore.StoreError).cause), name!)
      }))
  })
})
