import { describe } from "effect-holdfast/testing/vitest"
import { connections } from "./connections.js"
import { tryAll } from "./tryAll.js"

describe("W3, W4, W6, W12: connections, under every interleaving", () => tryAll(connections))
