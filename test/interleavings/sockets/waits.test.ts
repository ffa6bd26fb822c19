import { describe } from "effect-holdfast/testing/vitest"
import { tryAll } from "./tryAll.js"
import { waits } from "./waits.js"

describe("W2: a socket that waits, whatever the interleaving", () => tryAll(waits, () => ["interrupt"]))
