import { describe } from "effect-holdfast/testing/vitest"
import { interruptions } from "./interruptions.js"
import { tryAll } from "./tryAll.js"

describe("W7: a caller of a socket that is interrupted, whatever the interleaving", () =>
  tryAll(interruptions, () => ["interrupt"]))
