import * as KeyValueStore from "@effect/platform/KeyValueStore"
import * as PersistedSession from "effect-holdfast/PersistedSession"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { bySize } from "../support/bySize.js"
import { memory } from "../support/keyValueMemory.js"

/** Three callers refuse their values, one write of three fails, and a caller signs out meanwhile. */
const scenario = Effect.gen(function*() {
  const disk = memory()
  let broken = 0
  disk.state.during = Effect.suspend(() => {
    disk.state.broken = broken++ % 3 === 1
    return Effect.yieldNow()
  })
  const spent: Array<string> = []
  const revoked: Array<string> = []
  let count = 0
  const next = Effect.zipRight(Effect.yieldNow(), Effect.sync(() => ({ refresh: `t${++count}` })))
  const session = yield* PersistedSession.make({
    key: "api",
    schema: Schema.Struct({ refresh: Schema.String }),
    acquire: next,
    renew: ({ refresh }) => {
      spent.push(refresh)
      return next
    },
    onEnd: ({ refresh }) => Effect.sync(() => revoked.push(refresh)),
    cooldown: 0
  }).pipe(Effect.provideService(KeyValueStore.KeyValueStore, disk.store))
  const caller = Effect.flatMap(session.current, session.refresh).pipe(Effect.ignore)
  const callers = yield* Effect.forkAll(Array.from({ length: 3 }, () => caller))
  const ender = yield* Effect.fork(Effect.zipRight(Effect.yieldNow(), session.end))
  yield* Fiber.join(callers)
  yield* Fiber.join(ender)
  disk.state.during = Effect.sync(() => {
    disk.state.broken = false
  })
  disk.state.broken = false
  const last = yield* Effect.retry(session.current, { times: 3 })
  const text = disk.values.get("api") ?? ""
  if (!text.includes(`"${last.value.refresh}"`)) return yield* Effect.dieMessage(`${text}, not ${last.value.refresh}`)
  if (new Set(spent).size !== spent.length) return yield* Effect.dieMessage(`spent twice: ${spent}`)
  yield* session.end
  if (disk.values.size > 0) return yield* Effect.dieMessage("still there after `end`")
  if (!revoked.includes(last.value.refresh)) return yield* Effect.dieMessage("not revoked")
})

describe("a persisted session, under every interleaving", async () => {
  const effect = Effect.scoped(scenario)
  it.interleavings(
    "stores the current value, presents no value twice, and stores nothing after `end`",
    effect,
    await bySize(effect)
  )
})
