import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"
import { canaryPlugin } from "./test/support/canaries.js"

const src = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

/** One that takes minutes and comes last leaves all other cores waiting for it. */
class LongestFirst extends BaseSequencer {
  override async sort(files: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const sorted = await super.sort(files)
    const isLong = ({ moduleId }: TestSpecification) => moduleId.includes("/test/interleavings/")
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))]
  }
}

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
    include: ["test/**/*.test.ts"],
    // Two: what the smallest machine of a CI has. By default one is left idle.
    maxWorkers: 2,
    minWorkers: 1,
    sequence: { sequencer: LongestFirst },
    reporters: ["default", "./test/support/summary.ts"]
  }
})
