import { readFileSync } from "node:fs"
import { defineConfig } from "vitest/config"
import base from "../../vitest.config.js"

const shards = JSON.parse(readFileSync(new URL("shards.json", import.meta.url), "utf8")) as Record<
  string,
  { readonly tests: Array<string> }
>

/**
 * The tests of one shard. A mutant that survives is run through all of them. Canaries are left out, because they edit
 * the unmutated source, and tests of other processes, because no mutant is active there.
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
