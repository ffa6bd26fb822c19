import { describe } from "effect-holdfast/testing/vitest"
import { renewal } from "./renewal.js"
import { tryAll } from "./tryAll.js"

describe("W15: a socket that moves over to another connection, whatever the interleaving", () => tryAll(renewal))
