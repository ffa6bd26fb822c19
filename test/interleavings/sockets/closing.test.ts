import { describe } from "effect-holdfast/testing/vitest"
import { closing, slow } from "./closing.js"
import { tryAll } from "./tryAll.js"

describe("W7: a socket that is closed, under every interleaving", () =>
  tryAll(closing, (name) => slow.includes(name) ? ["timers"] : []))
