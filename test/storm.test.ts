import * as Either from "effect/Either"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import * as Options from "../examples/storm/options.js"

/**
 * Runs the storm as `npm start` does, but for what npm itself prints. Its counterparties have inherited its standard
 * error, so this resolves when they too have ended.
 */
const storm = (args: ReadonlyArray<string>, onOutput?: (kill: () => void) => void) =>
  new Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>((resolve) => {
    const child = execFile(
      process.execPath,
      ["--import", "tsx", "examples/storm/main.ts", ...args],
      { cwd: fileURLToPath(new URL("..", import.meta.url)), timeout: 50_000, killSignal: "SIGKILL" },
      (_, stdout, stderr) => resolve({ code: child.exitCode, stdout, stderr })
    )
    child.stdout?.on("data", () => onOutput?.(() => child.kill("SIGINT")))
  })

describe("the storm's options", () => {
  it.each([
    [["--minutes", "1"], "--minutes", "--seconds, --callers, --seed, --json and --help"],
    [["ten"], "\"ten\"", "--seconds, --callers, --seed, --json and --help"],
    [["--seconds", "soon"], "--seconds", "1 to 3600"],
    [["--seconds", "NaN"], "--seconds", "1 to 3600"],
    [["--seconds", "-1"], "--seconds", "1 to 3600"],
    [["--seconds", "0"], "--seconds", "1 to 3600"],
    [["--seconds", "1.5"], "--seconds", "1 to 3600"],
    [["--seconds", "3601"], "--seconds", "1 to 3600"],
    [["--seconds", "1\n2"], "--seconds", "1 to 3600"],
    [["--seconds="], "--seconds", "1 to 3600"],
    [["--seconds"], "--seconds", "1 to 3600"],
    [["--callers", "2001"], "--callers", "1 to 2000"],
    [["--callers", "--json"], "--callers", "1 to 2000"],
    [["--seed", "0x10"], "--seed", "1 to 4294967295"],
    [["--json=yes"], "--json", "no value"]
  ])("refuses %j in one line that names it and what is accepted", (args, name, accepted) => {
    const complaint = Either.getOrThrow(Either.flip(Options.parse(args)))
    expect(complaint).toContain(name)
    expect(complaint).toContain(accepted)
    expect(complaint).not.toContain("\n")
  })

  it("have defaults, of which the seed is left to chance", () => {
    const { seed, ...others } = Either.getOrThrow(Options.parse([])) as Options.Options
    expect(others).toEqual({ seconds: 10, callers: 200, json: false })
    expect(Either.getOrThrow(Options.parse(["--seed", String(seed)]))).toEqual({ seed, ...others })
  })
})

describe("the storm", () => {
  it("ends with 2 and one line on standard error for a bad option", async () => {
    const { code, stderr, stdout } = await storm(["--seconds", "soon"])
    expect({ code, stdout, stderr }).toEqual({
      code: 2,
      stdout: "",
      stderr: "--seconds must be a whole number from 1 to 3600, not \"soon\"\n"
    })
  }, 60_000)

  it("tells its options with --help", async () => {
    const { code, stderr, stdout } = await storm(["--help"])
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" })
    for (const name of ["--seconds", "--callers", "--seed", "--json"]) expect(stdout).toContain(name)
  }, 60_000)

  it("holds every promise", async () => {
    const { code, stderr, stdout } = await storm(["--seconds", "2", "--callers", "50", "--seed", "1", "--json"])
    const { held, ledger } = JSON.parse(stdout) as {
      readonly held: boolean
      readonly ledger: ReadonlyArray<{
        readonly entries: ReadonlyArray<{ readonly promise: string; readonly held: boolean }>
      }>
    }
    const entries = ledger.flatMap(({ entries }) => entries)
    expect(entries.filter(({ held }) => !held)).toEqual([])
    expect(entries.map(({ promise }) => promise)).toContain("a dead token is renewed once")
    expect({ code, held, stderr }).toEqual({ code: 0, held: true, stderr: "" })
  }, 60_000)

  it("leaves nothing running when it is interrupted", async () => {
    let interruptedAt: number | undefined
    const { code, stderr } = await storm(["--seconds", "30", "--seed", "1"], (interrupt) => {
      if (interruptedAt !== undefined) return
      setTimeout(interrupt, 1000)
      interruptedAt = Date.now() + 1000
    })
    expect({ code, stderr }).toEqual({ code: 130, stderr: "" })
    // A second is what it takes at most; the rest is for a machine that runs other tests besides.
    expect(Date.now() - interruptedAt!).toBeLessThan(5000)
  }, 60_000)
})
