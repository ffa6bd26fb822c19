import { describe } from "effect-holdfast/testing/vitest"
import { tryAll } from "./tryAll.js"
import { waits } from "./waits.js"

describe("W2: a socket that waits, under every interleaving", () => tryAll(waits, () => ["interrupt"]))
