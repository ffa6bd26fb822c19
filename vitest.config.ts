import { fileURLToPath } from "node:url"
import { setFlagsFromString } from "node:v8"
import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"
import { canaryPlugin } from "./test/support/canaries.js"
import { amount, form } from "./test/support/form.js"

// Exploring makes much garbage, most of which a space for the young of 16 MB, Node's default, is too small to let die: a
// larger space saves a fifth of the time. Workers take the flag from the process that starts them, and no `execArgv`.
const youngSpace = "--max-semi-space-size=64"
setFlagsFromString(youngSpace)

const src = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

/** Parts of the paths of the files that take longest. */
const long = [
  "/test/interleavings/",
  "/SharedSession/misbehaving",
  "/SharedSession/processes",
  "/OAuth2Provider",
  "/OAuth2Session/secrets",
  "/closing",
  "/clusterSocket",
  "/install",
  "/storm",
  "/vitest"
]

/** A file that takes long and comes last leaves the other core waiting for it. */
class LongestFirst extends BaseSequencer {
  override async sort(files: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const sorted = await super.sort(files)
    const isLong = ({ moduleId }: TestSpecification) => long.some((part) => moduleId.includes(part))
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))]
  }
}

/** Files that count what their process holds or uses (memory, timers, CPU), or that change what all files share. */
const alone = [
  "InspectorPage",
  "Interleavings",
  "NodeTicketCache",
  "NodeTicketCacheFaults",
  "ReconnectingSocketRpc",
  "ReconnectingSocketWire",
  "TransactionalRef"
]
  .map((name) => `test/${name}.test.ts`)

/** Files that need more than this repository and Node, or much time for what rarely breaks. */
const onlyInFull = ["test/docs.test.ts", "test/install.test.ts", "test/node24.test.ts"]

export default defineConfig({
  plugins: [canaryPlugin(src("."))],
  resolve: {
    // The tests import the package by its name; what they run is the source.
    alias: [
      { find: /^effect-holdfast$/, replacement: src("index.ts") },
      { find: /^effect-holdfast\/(.+)$/, replacement: src("$1.ts") }
    ]
  },
  test: {
    env: { HOLDFAST_EFFORT: process.env["HOLDFAST_EFFORT"] ?? "1" },
    globalSetup: ["test/support/programs.ts"],
    setupFiles: ["test/support/setup.ts"],
    // A time limit ends a test that hangs. On a busy machine a sound test takes many times what it takes alone.
    testTimeout: amount({ quick: 120_000, full: 600_000 }),
    hookTimeout: 60_000,
    // For the two cores that the smallest machine of a CI has: a third of the time a thread waits, for a peer or a timer.
    // With fewer threads at the least, the pool ends a thread that is idle for a moment, and Vitest takes that end for an
    // error of the run ("Terminating worker thread").
    maxWorkers: 3,
    minWorkers: 3,
    sequence: { sequencer: LongestFirst },
    reporters: ["default", "./test/support/summary.ts"],
    // Importing all modules anew for each file takes four times as long as importing them once for each worker.
    poolOptions: {
      threads: { isolate: false },
      forks: { isolate: false, maxForks: 1, minForks: 1, execArgv: [youngSpace] }
    },
    projects: [
      {
        extends: true,
        test: { name: "alone", include: alone, pool: "forks" }
      },
      {
        extends: true,
        test: {
          name: "together",
          include: ["test/**/*.test.ts"],
          exclude: [...alone, ...form === "quick" ? onlyInFull : []],
          pool: "threads"
        }
      }
    ]
  }
})
