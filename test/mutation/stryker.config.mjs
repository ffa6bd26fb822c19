import { readFileSync } from "node:fs"

/** The files that are mutated together, and the fast tests that must notice: with the slow tests it would take days. */
const shards = JSON.parse(readFileSync(new URL("shards.json", import.meta.url), "utf8"))

const name = process.env.HOLDFAST_SHARD
const shard = shards[name]
if (shard === undefined) {
  throw new Error(`HOLDFAST_SHARD: must be one of ${Object.keys(shards).join(", ")}, got ${name}`)
}

export default {
  testRunner: "vitest",
  vitest: { configFile: "test/mutation/vitest.config.ts" },
  mutate: shard.mutate,
  ignorePatterns: ["dist"],
  plugins: ["@stryker-mutator/vitest-runner"],
  coverageAnalysis: "perTest",
  ignoreStatic: true,
  concurrency: Number(process.env.HOLDFAST_WORKERS ?? 2),
  timeoutMS: 20_000,
  reporters: ["clear-text", "progress-append-only", "json"],
  jsonReporter: { fileName: `node_modules/.cache/mutation/${name}.json` },
  clearTextReporter: { allowColor: false, logTests: false, reportScoreTable: true },
  tempDirName: ".stryker-tmp",
  allowEmpty: false,
  thresholds: { high: 95, low: 90, break: 90 }
}
