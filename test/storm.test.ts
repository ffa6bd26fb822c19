import * as Either from "effect/Either"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import type { Tally } from "../examples/storm/balances/crowd.js"
import * as BalancesLedger from "../examples/storm/balances/ledger.js"
import { accountCount, initialCents, Transfer } from "../examples/storm/balances/transfer.js"
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

describe("the ledger of the balances", () => {
  type Accounts = Parameters<typeof BalancesLedger.section>[1]

  /** One transfer was done, one died, one was left midway. */
  const tally: Tally = {
    known: { Done: ["done"], Died: ["died"], Failed: [], Left: ["left"], Overdrawn: [] },
    waiting: 0,
    unanswered: {},
    incidents: ["i-1"],
    improper: 0,
    sums: { read: 1, wrong: [], withDebts: 0 }
  }
  const others = Array.from({ length: accountCount - 2 }, () => initialCents)
  const done = new Transfer({ id: "done", from: 0, to: 1, cents: 1 })
  const accounts: Accounts = {
    locks: { held: 0, waiting: 0 },
    balances: [initialCents - 1, initialCents + 1, ...others],
    committed: [done],
    undone: { died: ["died"], failed: [], interrupted: ["left"], overdrawn: [] },
    defects: { answered: 1, logged: ["i-1"] }
  }

  const broken = (changed: { readonly tally?: Partial<Tally>; readonly accounts?: Partial<Accounts> }) =>
    BalancesLedger.section({ ...tally, ...changed.tally }, { ...accounts, ...changed.accounts }).entries
      .filter(({ held }) => !held)
      .map(({ promise }) => promise)

  it("holds if nothing is amiss", () => {
    expect(broken({})).toEqual([])
  })

  it.each<readonly [string, string, Parameters<typeof broken>[0]]>([
    ["a debit stays", "the sum is what it was, to the cent", {
      accounts: { balances: [initialCents - 2, initialCents + 1, ...others] }
    }],
    ["a transfer that is in no journal is done, and the sum right", "what is not done leaves no trace", {
      accounts: { balances: [initialCents - 2, initialCents + 2, ...others] }
    }],
    ["a reader sees a debit without its credit", "nobody ever reads another sum", {
      tally: { sums: { read: 2, wrong: [accountCount * initialCents - 1], withDebts: 0 } }
    }],
    ["a reader sees a debt", "nobody ever reads another sum", {
      tally: { sums: { read: 2, wrong: [], withDebts: 1 } }
    }],
    ["no sum is read", "nobody ever reads another sum", {
      tally: { sums: { read: 0, wrong: [], withDebts: 0 } }
    }],
    ["a transfer that was answered is not done", "what is done is done once", {
      accounts: { balances: [initialCents, initialCents, ...others], committed: [] }
    }],
    ["a transfer that died is done", "what is not done leaves no trace", {
      accounts: {
        balances: [initialCents, initialCents, ...others],
        committed: [done, new Transfer({ id: "died", from: 1, to: 0, cents: 1 })]
      }
    }],
    ["nobody pays", "every transfer is answered", {
      tally: { known: { Done: [], Died: [], Failed: [], Left: [], Overdrawn: [] } }
    }],
    ["a caller hears nothing", "every transfer is answered", { tally: { unanswered: { ApiUnreachable: 1 } } }],
    ["a caller hears too much", "a defect is a 500 with an incident", { tally: { improper: 1 } }],
    ["a defect is not answered", "a defect is a 500 with an incident", {
      accounts: { defects: { answered: 0, logged: ["i-1"] } }
    }],
    ["a defect is logged twice", "and is logged once", {
      accounts: { defects: { answered: 1, logged: ["i-1", "i-1"] } }
    }],
    ["another incident is logged", "and is logged once", { accounts: { defects: { answered: 1, logged: ["i-2"] } } }],
    ["an account stays locked", "no account is left locked", { accounts: { locks: { held: 1, waiting: 0 } } }]
  ])("is broken if %s", (_, promise, changed) => {
    expect(broken(changed)).toContain(promise)
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
        readonly part: string
        readonly counts: Readonly<Record<string, any>>
        readonly entries: ReadonlyArray<{ readonly promise: string; readonly held: boolean }>
      }>
    }
    const entries = ledger.flatMap(({ entries }) => entries)
    expect(entries.filter(({ held }) => !held)).toEqual([])
    expect(entries.map(({ promise }) => promise)).toContain("a dead token is renewed once")
    expect({ code, held, stderr }).toEqual({ code: 0, held: true, stderr: "" })

    // Whatever the machine was busy with, each caller has paid once, and what becomes of that is the seed's.
    const { answered } = ledger.find(({ part }) => part === "balances")!.counts
    for (const what of ["Done", "Died", "Failed", "Left"]) expect(answered[what], what).toBeGreaterThan(0)
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
