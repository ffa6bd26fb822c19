/** Writes to a directory without end, for a test that kills this process: alternately two long values. */
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { NodeKeyValueStore } from "effect-holdfast/node"
import * as Effect from "effect/Effect"

const [directory, key] = process.argv.slice(2) as [string, string]

const writing = Effect.gen(function*() {
  const store = yield* KeyValueStore.KeyValueStore
  for (let n = 0;; n++) {
    yield* store.set(key, String(n % 10).repeat(300_000))
    if (n === 0) process.stdout.write("ready\n")
  }
})

Effect.runFork(Effect.provide(writing, NodeKeyValueStore.layerFileSystem(directory)))
