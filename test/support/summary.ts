/**
 * Prints before a run which form it has and what it leaves out, and after the run how many interleavings were explored
 * and which canaries were caught.
 */
import type { Reporter, TestModule } from "vitest/node"
import { form } from "./form.js"
import { missing } from "./tools.js"

export default class Summary implements Reporter {
  onTestRunStart(): void {
    const seed = process.env["HOLDFAST_SEED"]
    process.stdout.write(
      [
        `form: ${form}, seed: ${seed === undefined || seed === "" ? "the fixed one" : seed}`,
        ...form === "quick"
          ? [
            "left to the full form: Node 24, the package in an empty folder, the examples in the documentation,",
            "  and all that needs another program: browsers, databases, openssl, and the servers of NATS and MQTT"
          ]
          : [],
        ...missing
      ].map((line) => ` ${line}\n`).join("") + "\n"
    )
  }

  onTestRunEnd(modules: ReadonlyArray<TestModule>): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const interleavings = tests.reduce((sum, test) => sum + (test.meta().interleavings ?? 0), 0)
    const canaries = tests.flatMap((test) => {
      const { canary } = test.meta()
      return canary === undefined
        ? []
        : [{ name: test.name, caught: test.result().state === "passed" ? canary.caught : undefined }]
    })
    if (interleavings === 0 && canaries.length === 0) return
    const caught = canaries.filter((canary) => canary.caught !== undefined)
    process.stdout.write([
      "",
      ...canaries.map(({ caught, name }) => `${name}: ${caught === undefined ? "NOT CAUGHT" : `caught (${caught})`}`),
      `interleavings: ${
        interleavings.toLocaleString("en")
      } explored; canaries: ${caught.length} of ${canaries.length} caught`,
      ""
    ].join("\n"))
  }
}
