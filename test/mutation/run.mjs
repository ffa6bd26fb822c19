/** Runs the mutants of the named shards, or of all: `npm run test:mutation -- sessions http`. */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"

const shards = JSON.parse(readFileSync(new URL("shards.json", import.meta.url), "utf8"))
const asked = process.argv.slice(2)
const unknown = asked.filter((name) => !Object.hasOwn(shards, name))
if (unknown.length > 0) {
  process.stderr.write(`no such shard: ${unknown.join(", ")}; there are ${Object.keys(shards).join(", ")}\n`)
  process.exit(2)
}
const failed = (asked.length > 0 ? asked : Object.keys(shards)).filter((name) => {
  process.stdout.write(`\n=== mutants of ${name}\n`)
  const { status } = spawnSync("npx", ["stryker", "run", "test/mutation/stryker.config.mjs"], {
    stdio: "inherit",
    env: { ...process.env, HOLDFAST_SHARD: name }
  })
  return status !== 0
})
if (failed.length > 0) process.stderr.write(`too many mutants survive in ${failed.join(", ")}\n`)
process.exit(failed.length > 0 ? 1 : 0)
