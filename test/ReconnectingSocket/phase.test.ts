import { assert, describe, it } from "@effect/vitest"
import { ConnectionLost } from "effect-holdfast/WebSocketDialer"
import * as Option from "effect/Option"
import { move, next, type Phase, type PhaseEvent, stateOf } from "../../src/internal/socket/phase.js"

const failure = new ConnectionLost({ reason: "Reset" })
const info = { code: 1000, reason: "", failure: Option.none() }

const phases = {
  Dialing: { _tag: "Dialing", attempt: 1 },
  Opening: { _tag: "Opening", connection: "a" },
  Open: { _tag: "Open", connection: "a", since: 10 },
  Waiting: { _tag: "Waiting", until: 20, failure, attempt: 1 },
  Closed: { _tag: "Closed", info }
} satisfies { readonly [Tag in Phase<string>["_tag"]]: Phase<string> & { readonly _tag: Tag } }

const wait = { _tag: "Wait", until: 30, failure, attempt: 2 } as const
const waiting = { _tag: "Waiting", until: 30, failure, attempt: 2 } as const
const dialing = { _tag: "Dialing", attempt: 2 } as const
const closed = { _tag: "Closed", info } as const

/** The result of each event in each phase; a phase that is not listed refuses the event. */
const table: ReadonlyArray<
  readonly [
    name: string,
    event: PhaseEvent<string>,
    moved: { readonly [Tag in Phase<string>["_tag"]]?: Phase<string> }
  ]
> = [
  [
    "a dial of the same attempt",
    { _tag: "Dial", attempt: 1 },
    {
      Dialing: phases.Dialing,
      Opening: phases.Dialing,
      Open: phases.Dialing,
      Waiting: phases.Dialing
    }
  ],
  [
    "a dial of another attempt",
    { _tag: "Dial", attempt: 2 },
    { Dialing: dialing, Opening: dialing, Open: dialing, Waiting: dialing }
  ],
  ["a dial that succeeds", { _tag: "Dialed", connection: "a" }, { Dialing: phases.Opening }],
  [
    "its own connection that is ready",
    { _tag: "Ready", connection: "a", since: 10 },
    { Opening: phases.Open }
  ],
  [
    "another connection that is ready",
    { _tag: "Ready", connection: "b", since: 40 },
    { Open: { _tag: "Open", connection: "b", since: 40 } }
  ],
  ["a delay", wait, { Dialing: waiting, Opening: waiting, Open: waiting }],
  ["the close", { _tag: "Close", info }, { Dialing: closed, Opening: closed, Open: closed, Waiting: closed }]
]

describe("the phases of a socket", () => {
  for (const [name, event, moved] of table) {
    for (const phase of Object.values(phases)) {
      const expected = moved[phase._tag]
      it(`${phase._tag}, ${name}: ${expected === undefined ? "refused" : `then ${expected._tag}`}`, () => {
        assert.deepStrictEqual(next(phase, event), expected)
        if (expected !== undefined) return assert.deepStrictEqual(move(phase, event), expected)
        assert.throws(() => move(phase, event), `a socket that is ${phase._tag} cannot take the event ${event._tag}`)
      })
    }
  }

  it("stay the same object if nothing has changed, so that no state is published twice", () => {
    assert.strictEqual(next(phases.Dialing, { _tag: "Dial", attempt: 1 }), phases.Dialing)
  })

  it("hide the connection from users", () => {
    assert.deepStrictEqual(Object.values(phases).map(stateOf), [
      { _tag: "Dialing", attempt: 1 },
      { _tag: "Opening" },
      { _tag: "Open", since: 10 },
      { _tag: "Waiting", until: 20, failure, attempt: 1 },
      { _tag: "Closed", info }
    ])
  })
})
