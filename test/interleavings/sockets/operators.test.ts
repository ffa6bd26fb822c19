import { describe } from "effect-holdfast/testing/vitest"
import { operators } from "./operators.js"
import { tryAll } from "./tryAll.js"

describe("W15, W19: what an operator sees, and a login's end, whatever the interleaving", () =>
  tryAll(operators, () => ["interrupt"]))
