import { describe } from "effect-holdfast/testing/vitest"
import { messages } from "./messages.js"
import { tryAll } from "./tryAll.js"

describe("W1, W9: messages, under every interleaving", () => tryAll(messages))

describe("W1, W9, W10: messages that are written without a fiber, under every interleaving", () =>
  tryAll(messages, undefined, true))
