import { describe } from "@effect/vitest"
import * as SessionStore from "effect-holdfast/SessionStore"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { contract, sharedContract } from "./storeContract.js"

const root = mkdtempSync(join(tmpdir(), "holdfast-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let folders = 0

describe("a store in memory", () => contract(() => SessionStore.layerMemory, { hasNotices: true }))

describe("a store in a directory", () =>
  sharedContract(() => ({ kind: "file", directory: join(root, String(folders++)) }), { hasNotices: true }))
