import { assert, describe, it } from "@effect/vitest"
import { interleavings } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { vi } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))

/** Runs the fixture as a user runs tests. */
const run = (environment: Record<string, string>) =>
  new Promise<string>((resolve) => {
    const args = ["node_modules/vitest/vitest.mjs", "run", "--config", "test/fixtures/vitest.config.ts", "--root", root]
    const { FORCE_COLOR: _, ...inherited } = process.env
    // The child runs in its own form, with its own seed and effort.
    for (const name of ["HOLDFAST_FORM", "HOLDFAST_EFFORT", "HOLDFAST_SEED"]) delete inherited[name]
    execFile(
      process.execPath,
      args,
      { cwd: root, timeout: 120_000, env: { ...inherited, NO_COLOR: "1", VITEST: "", ...environment } },
      (_, stdout, stderr) => resolve(stdout + stderr)
    )
  })

describe("it.interleavings", { timeout: 300_000 }, () => {
  const [seeded, thrice, unset] = [{ HOLDFAST_SEED: "5" }, { HOLDFAST_SEED: "5", HOLDFAST_EFFORT: "3" }, {
    HOLDFAST_EFFORT: "0.2"
  }]
    .map((environment) => {
      let output: Promise<string> | undefined
      return () => output ??= run(environment)
    })

  it("fails with the line that replays the failure, and is a test like others", async () => {
    const output = await seeded!()
    assert.match(output, /× breaks/)
    assert.match(output, /an update was lost/)
    assert.match(output, /replay: Interleavings\.replay\(effect, "holdfast:1 r5 p[\d.]+@\d+>[\d.]+!?"\)/)
    assert.match(output, /3 failed \| 10 passed \| 1 skipped/)
    assert.match(output, /interleavings: [\d,]+ explored/)
  })

  it("takes its seed from HOLDFAST_SEED, by default the same every day", async () => {
    const number = (output: string) => /first number: (-?\d+)/.exec(output)?.[1]
    const ofSeed = (seed: number) => `${Effect.runSync(Effect.withRandom(Random.nextInt, Random.make(seed)))}`
    assert.strictEqual(number(await seeded!()), ofSeed(5))
    assert.strictEqual(number(await thrice!()), ofSeed(5))
    assert.strictEqual(number(await unset!()), ofSeed(0))
  })

  it("I4: passes when its budget is spent, and prints how much was tried", async () => {
    const output = await seeded!()
    assert.match(output, /✓ .*is stopped by its budget/)
    assert.match(
      output,
      /^[\d,]+ interleavings, then the budget was spent: random \d+ of \d+ places, pct \d+ of \d+ places$/m
    )
  })

  it("I4: says in one line what was cut by its limit", async () => {
    const lines = (await seeded!()).split("\n").filter((line) => line.includes("cut by the limit"))
    // The plain run is one of the eleven.
    assert.strictEqual(lines.length, 1)
    assert.match(lines[0]!, /^2 explorations were cut by the limit: sweep 20 of \d+ places$/)
  })

  it("I4: has a limit that leaves room for its budget, and is none beyond what a timer can hold", async () => {
    const output = await seeded!()
    assert.match(output, /✓ .*has a limit that its budget fits in/)
    assert.match(output, /✓ .*has a budget of days/)
  })

  it("with `fails` passes only if a failure is found, even if the budget was spent", async () => {
    const output = await seeded!()
    assert.match(output, /✓ .*breaks as expected/)
    assert.match(output, /× .*finds nothing/)
    assert.match(output, /a failure was expected, and none was found/)
  })

  it("with `fails` does not take a refused option for a failure that was found", async () => {
    const output = await seeded!()
    assert.match(output, /× .*is refused/)
    assert.match(output, /InvalidOptions: limit: must be a whole number of at least 1, got 0/)
  })

  it("takes its effort from HOLDFAST_EFFORT", async () => {
    const runs = (output: string) => Number(/runs: (\d+)/.exec(output)?.[1])
    // Ten seeds, and the plain order.
    assert.strictEqual(runs(await seeded!()), 11)
    assert.strictEqual(runs(await thrice!()), 31)
    assert.strictEqual(runs(await unset!()), 3)
  })

  it.each([
    ["HOLDFAST_SEED", "today", "a whole number of at least 0"],
    ["HOLDFAST_SEED", "1.5", "a whole number of at least 0"],
    ["HOLDFAST_EFFORT", "0", "a number above 0"],
    ["HOLDFAST_EFFORT", "much", "a number above 0"]
  ])("refuses %s=%s", (name, value, what) => {
    vi.stubEnv(name, value)
    try {
      assert.throws(
        () => interleavings("is refused", Effect.void),
        `${name}: must be ${what}, got ${value}`
      )
    } finally {
      vi.unstubAllEnvs()
    }
  })
})
