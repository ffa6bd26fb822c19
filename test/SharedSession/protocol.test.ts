import { assert, describe, it } from "@effect/vitest"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as Protocol from "../../src/internal/shared/protocol.js"
import { canaries } from "../support/canaries.js"
import { amount, form } from "../support/form.js"
import { type Bounds, search } from "./protocolModel.js"

const base: Bounds = {
  processes: 2,
  refreshes: 1,
  ticks: 2,
  crashes: 1,
  losses: 1,
  ends: 0,
  deletions: 0,
  isSignedIn: true
}

const fleets: Readonly<Record<string, Bounds>> = {
  "processes crash and answers are lost": { ...base, refreshes: amount({ quick: 1, full: 2 }) },
  "no process has signed in yet": { ...base, isSignedIn: false },
  "the session is ended": { ...base, losses: amount({ quick: 0, full: 1 }), ends: 1 },
  "the row is deleted": { ...base, losses: amount({ quick: 0, full: 1 }), deletions: 1 }
}

describe("the protocol, in every order of its steps", () => {
  for (const [name, bounds] of Object.entries(fleets)) {
    it(`F2 F3 F4 F10: holds for two processes, if ${name}`, () => {
      const { history, states, violation } = search(Protocol, bounds)
      assert.deepStrictEqual([violation, history], [undefined, []])
      assert.isAbove(states, 1000)
    })

    it.skipIf(form === "quick")(`F2 F3 F4 F10: holds for three processes, if ${name}`, () => {
      const { history, states, violation } = search(Protocol, { ...bounds, processes: 3, refreshes: 1 })
      assert.deepStrictEqual([violation, history], [undefined, []])
      assert.isAbove(states, 5000)
    })
  }
})

describe("the numbers of a row", () => {
  it("F2: do not fall when the row is deleted, and rise even if the store's clock is set back", () => {
    const renewal = (row: SessionStore.Row | undefined, now: number) => {
      const held = Protocol.take(row, { holder: "h", lease: 1000, now })
      const taken = { holder: "h", version: held.version, origin: held.origin, isSignIn: held.value === null }
      return Protocol.commit(held, taken, { value: "v", lifetime: null }, now)!
    }
    const numbersOf = ({ fence, revision, version }: SessionStore.Row) => [fence, revision, version]
    const assertLater = (later: SessionStore.Row, row: SessionStore.Row) =>
      numbersOf(later).forEach((number, i) => assert.isAbove(number, numbersOf(row)[i]!))
    const first = renewal(undefined, 5000)
    assertLater(renewal(first, 4000), first)
    // No process remembers the row.
    assertLater(renewal(undefined, 5010), first)
  })
})

describe("a lease in the row", () => {
  it("F4: is free if it would last longer than any lease can, since the store's clock was set back", () => {
    const hour = 3_600_000
    const held = Protocol.take(undefined, { holder: "h", lease: Protocol.longestLease, now: hour })
    assert.deepStrictEqual(Protocol.look(held, Protocol.nothing, hour), { _tag: "Busy", left: Protocol.longestLease })
    assert.deepStrictEqual(Protocol.look(held, Protocol.nothing, 0), { _tag: "Free" })
    const taken = { holder: "other", version: 0, origin: 0, isSignIn: true }
    assert.strictEqual(Protocol.settle(held, taken, { value: "v", lifetime: null }, hour)._tag, "Busy")
    assert.strictEqual(Protocol.settle(held, taken, { value: "v", lifetime: null }, 0)._tag, "Commit")
  })
})

describe("a protocol with a known fault is caught", () => {
  const canaryOf = (name: keyof typeof canaries, expected: string) =>
    it(`canary: ${canaries[name].fault}`, async ({ task }) => {
      task.meta.canary = { caught: undefined }
      const faulty: typeof Protocol = await import(
        /* @vite-ignore */ `../../src/internal/shared/protocol.ts?canary=${name}`
      )
      const { states, violation } = search(faulty, base)
      assert.strictEqual(violation, expected)
      task.meta.canary = { caught: `model search, state ${states}` }
    })

  canaryOf("unchecked-lease", "two holders present together")
  canaryOf("cleared-intent", "a token that was presented before is presented as certain")
})

describe("a failure", () => {
  it("F5: whose cooldown never ends leaves a row that can be read", () => {
    const held = { ...SessionStore.decode(1, "nonsense"), holder: "me" }
    const failure = { uncertain: false, isFatal: false, error: "Refused", cooldown: Infinity }
    const row = Protocol.fail(held, "me", failure, 0)!
    assert.deepStrictEqual(SessionStore.decode(row.revision, SessionStore.encode(row)), row)
  })
})
