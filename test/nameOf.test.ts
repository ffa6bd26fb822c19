import { assert, describe, it } from "@effect/vitest"
import * as Data from "effect/Data"
import { nameOf } from "../src/internal/nameOf.js"

class Denied extends Data.TaggedError("Denied")<{ readonly message: string }> {}

describe("what a log calls an error", () => {
  const cases: ReadonlyArray<readonly [unknown, string]> = [
    [new Denied({ message: "token abc" }), "Denied"],
    [new TypeError("token abc"), "TypeError"],
    ["token abc", "string"],
    [undefined, "undefined"],
    [null, "object"],
    [{ _tag: 5 }, "object"],
    [{ _tag: "" }, "object"],
    [{ _tag: "@app/Zu spät" }, "@app/Zu spät"],
    [{ _tag: "x".repeat(81) }, "object"],
    [{ _tag: "a\nlevel=ERROR" }, "object"],
    [{ _tag: "a\u001b[31m" }, "object"],
    [{ _tag: "a\u2028b" }, "object"]
  ]
  it.each(cases)("is its tag, its name or its type, and never its message: %o", (error, name) => {
    assert.strictEqual(nameOf(error), name)
  })
})
