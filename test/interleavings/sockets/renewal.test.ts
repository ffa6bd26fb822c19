import { describe } from "effect-holdfast/testing/vitest"
import { renewal } from "./renewal.js"
import { tryAll } from "./tryAll.js"

describe("W15: a socket that replaces its connection, under every interleaving", () => tryAll(renewal))
