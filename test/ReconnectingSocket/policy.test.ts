import { assert, describe, it } from "@effect/vitest"
import { ConnectionClosed, type ConnectionFailure, ConnectionLost, DialError } from "effect-holdfast/WebSocketDialer"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Policy from "../../src/internal/socket/policy.js"
import { fatalCodes, retryableCodes } from "../support/reconnectingSockets.js"

const closed = (code: number) => new ConnectionClosed({ code, reason: "" })
const refused = (status: number) => new DialError({ reason: "Refused", url: "ws://test", status })
const lost = new ConnectionLost({ reason: "HeartbeatTimeout" })

describe("the meaning of a failure", () => {
  const rows: ReadonlyArray<
    readonly [ConnectionFailure, retryableWithSession: boolean, retryableWithout: boolean, refusesSession: boolean]
  > = [
    [lost, true, true, false],
    ...[...retryableCodes, 1005, 1006].map((code) => [closed(code), true, true, code === 4401] as const),
    ...fatalCodes.map((code) => [closed(code), false, false, false] as const),
    ...[400, 403, 404, 405, 410, 426].map((status) => [refused(status), false, false, false] as const),
    ...[408, 429, 500, 503].map((status) => [refused(status), true, true, false] as const),
    [refused(401), true, false, true],
    [new DialError({ reason: "Timeout", url: "" }), true, true, false],
    [new DialError({ reason: "InvalidRequest", url: "" }), false, false, false],
    [new DialError({ reason: "Transport", url: "", cause: { _tag: "SessionClosed" } }), false, false, false]
  ]
  for (const [failure, withSession, without, isRejected] of rows) {
    it(`W6: ${failure.message}`, () => {
      assert.strictEqual(Policy.isRetryable(failure, true), withSession)
      assert.strictEqual(Policy.isRetryable(failure, false), without)
      assert.strictEqual(Policy.isRejected(failure), isRejected)
    })
  }
})

describe("the delay after a failure", () => {
  const rows: ReadonlyArray<readonly [name: string, scheduled: number, asked: Option.Option<string>, delay: number]> = [
    ["is the schedule's", 500, Option.none(), 500],
    ["is at least what the server asks for", 500, Option.some("2 seconds"), 2_000],
    ["is the schedule's where that is longer", 5_000, Option.some("2 seconds"), 5_000],
    ["is at most five minutes where the server asks for more", 500, Option.some("1 hour"), 300_000],
    ["is never longer than a timer can hold", 2 ** 40, Option.none(), 2 ** 31 - 1]
  ]
  for (const [name, scheduled, asked, delay] of rows) {
    it(`W3: ${name}`, () => {
      const retryAfter = Option.map(asked, (asked) => Duration.decode(asked as Duration.DurationInput))
      assert.strictEqual(Policy.delayAfter(scheduled, retryAfter), delay)
    })
  }
})

describe("a close frame", () => {
  it("has only codes that may be sent", () => {
    for (const code of [1000, 1001, 1003, 1007, 1014, 3000, 4999]) assert.strictEqual(Policy.sendableCode(code), code)
    for (const code of [-1, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 1000.5, NaN]) {
      assert.strictEqual(Policy.sendableCode(code), 1000)
    }
  })

  it("has at most 123 bytes of reason, and no half of a character", () => {
    assert.strictEqual(Policy.sendableReason("short"), "short")
    assert.strictEqual(Policy.sendableReason("x".repeat(200)), "x".repeat(123))
    assert.strictEqual(Policy.sendableReason("é".repeat(200)), "é".repeat(61))
    assert.strictEqual(Policy.sendableReason("x".repeat(122) + "😀"), "x".repeat(122))
    assert.strictEqual(Policy.sendableReason("😀".repeat(40)), "😀".repeat(30))
  })
})
