import { describe } from "effect-holdfast/testing/vitest"
import { operators } from "./operators.js"
import { tryAll } from "./tryAll.js"

describe("W15, W19: gauges, and a login that ends its connection, under every interleaving", () =>
  tryAll(operators, () => ["interrupt"]))
