/**
 * `npm run bench -- [suite ...] [--quick]` runs the named suites, or all suites.
 *
 * A benchmark is not a test: it prints its results and exits with 0, whether the targets were reached or not.
 */
import { register } from "node:module"
import * as Os from "node:os"
import type { Budget } from "./budget.js"
import { full, quick } from "./budget.js"

register("./emit.mjs", import.meta.url)

// A suite is loaded only when it runs: then the hook above is in place, and no suite loads another's rivals.
const suites: Record<string, () => Promise<{ readonly run: (budget: Budget) => Promise<void> }>> = {
  session: () => import("./session.js"),
  fleet: () => import("./fleet.js"),
  interleavings: () => import("./interleavings.js"),
  socket: () => import("./socket.js"),
  state: () => import("./state.js"),
  tickets: () => import("./tickets.js")
}

const words = process.argv.slice(2)
const unknown = words.filter((word) => word !== "--quick" && !Object.hasOwn(suites, word))
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(", ")}; suites: ${Object.keys(suites).join(", ")}; options: --quick`)
  process.exit(2)
}

const named = words.filter((word) => word !== "--quick")
const budget = words.includes("--quick") ? quick : full
const cpus = Os.cpus()

console.log(`Node ${process.version}, ${cpus.length} CPUs (${cpus[0]?.model.trim() ?? "unknown"}), ${budget.name} run`)
for (const name of named.length > 0 ? named : Object.keys(suites)) {
  const { run } = await suites[name]!()
  await run(budget)
}
