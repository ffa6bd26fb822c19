import { readFileSync } from "node:fs"
import { defineConfig } from "vitest/config"
import base from "../../vitest.config.js"

const shards = JSON.parse(readFileSync(new URL("shards.json", import.meta.url), "utf8")) as Record<
  string,
  { readonly tests: Array<string> }
>

/**
 * The tests of one shard. A mutant that survives is run through all of them. A canary is an edit of the source as it
 * stands, which the mutants' is not; and no mutant is active in another process.
 */
export default defineConfig({
  resolve: base.resolve!,
  test: {
    include: shards[process.env["HOLDFAST_SHARD"] ?? ""]!.tests,
    testNamePattern: /^(?!.*canary|a process)/,
    // A time limit is for a hang.
    testTimeout: 60_000,
    maxWorkers: 1,
    minWorkers: 1
  }
})
