import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

/** Runs the fixture as a user runs tests. */
const run = (environment: Record<string, string>) =>
  new Promise<string>((resolve) => {
    const args = ["node_modules/vitest/vitest.mjs", "run", "--config", "test/fixtures/vitest.config.ts", "--root", root]
    const { FORCE_COLOR: _, ...inherited } = process.env
    execFile(
      process.execPath,
      args,
      { cwd: root, timeout: 60_000, env: { ...inherited, NO_COLOR: "1", VITEST: "", ...environment } },
      (_, stdout, stderr) => resolve(stdout + stderr)
    )
  })

describe("it.interleavings", { timeout: 120_000 }, () => {
  it("fails with the line that replays the failure, and is a test like others", async () => {
    const output = await run({ HOLDFAST_SEED: "5" })
    assert.match(output, /× breaks/)
    assert.match(output, /an update was lost/)
    assert.match(output, /replay: Interleavings\.replay\(effect, "holdfast:1 r5 p[\d.]+@\d+>[\d.]+!?"\)/)
    assert.match(output, /1 failed \| 3 passed \| 1 skipped/)
    assert.match(output, /interleavings: [\d,]+ explored/)
  })

  it("takes its seed from HOLDFAST_SEED, by default from the day", async () => {
    const numbers = (output: string) => /first number: (-?\d+)/.exec(output)?.[1]
    const [one, again, other, today] = [
      await run({ HOLDFAST_SEED: "5" }),
      await run({ HOLDFAST_SEED: "5" }),
      await run({ HOLDFAST_SEED: "6" }),
      await run({})
    ].map(numbers)
    assert.isDefined(one)
    assert.strictEqual(one, again)
    assert.notStrictEqual(one, other)
    assert.isDefined(today)
    assert.notStrictEqual(one, today)
  })

  it("takes its effort from HOLDFAST_EFFORT", async () => {
    const explored = (output: string) => Number(/interleavings: ([\d,]+) explored/.exec(output)?.[1]?.replaceAll(",", ""))
    const once = explored(await run({ HOLDFAST_SEED: "5" }))
    assert.isAbove(explored(await run({ HOLDFAST_SEED: "5", HOLDFAST_EFFORT: "3" })), once + 30)
  })

  it("refuses a seed or an effort that is none", async () => {
    assert.match(await run({ HOLDFAST_SEED: "today" }), /HOLDFAST_SEED: must be a whole number of at least 0, got today/)
    assert.match(await run({ HOLDFAST_EFFORT: "0" }), /HOLDFAST_EFFORT: must be a whole number of at least 1, got 0/)
  })
})
