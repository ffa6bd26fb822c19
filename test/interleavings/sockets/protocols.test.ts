import { describe } from "effect-holdfast/testing/vitest"
import { protocols } from "./protocols.js"
import { tryAll } from "./tryAll.js"

describe("W9, W14: other people's protocols, whatever the interleaving", () => tryAll(protocols))
