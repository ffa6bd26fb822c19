import { describe } from "effect-holdfast/testing/vitest"
import { interruptions } from "./interruptions.js"
import { tryAll } from "./tryAll.js"

describe("W7: an interrupted caller of a socket, under every interleaving", () =>
  tryAll(interruptions, () => ["interrupt"]))
