import { describe } from "effect-holdfast/testing/vitest"
import { interruptions } from "./interruptions.js"
import { tryAll } from "./tryAll.js"

describe("W7: an interrupted caller of a socket, under every interleaving", () =>
  tryAll(interruptions, () => ["interrupt"]))

describe("W7, W10: an interrupted caller whose message is written without a fiber, under every interleaving", () =>
  tryAll(interruptions, () => ["interrupt"], true))
