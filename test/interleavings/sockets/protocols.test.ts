import { describe } from "effect-holdfast/testing/vitest"
import { protocols } from "./protocols.js"
import { tryAll } from "./tryAll.js"

describe("W9, W14: application protocols, under every interleaving", () => tryAll(protocols))
