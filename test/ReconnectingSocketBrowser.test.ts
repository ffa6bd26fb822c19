/** The bundle of the package's main entry in a real browser, against a server that is killed. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { build, type BuildResult } from "esbuild"
import { mkdtempSync, rmSync } from "node:fs"
import { isBuiltin } from "node:module"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { BrowserContext } from "playwright-core"
import { chromiumContext } from "./support/chromium.js"
import { browser } from "./support/tools.js"
import { print, serverProcess } from "./support/webSocketServer.js"

/** The functions that the page exposes to the test. */
interface Page {
  readonly events: ReadonlyArray<string>
  readonly received: ReadonlyArray<string>
  readonly send: (message: string) => Promise<void>
  readonly close: () => Promise<void>
  readonly reconnect: () => Promise<void>
}

const script = `
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as Holdfast from "./src/index.ts"

const { Backoff, ReconnectingSocket, WebSocketDialer } = Holdfast
const page = { events: [], received: [], all: Holdfast }
globalThis.page = page

Effect.runFork(Effect.scoped(Effect.gen(function*() {
  const socket = yield* ReconnectingSocket.make({
    dial: { url: "ws://" + location.host + "/echo" },
    backoff: location.search === "?patient"
      ? Backoff.exponential({ initial: "1 hours", max: "1 hours", jitter: "none" })
      : Backoff.exponential({ initial: "5 millis", max: "50 millis" })
  })
  page.reconnect = () => Effect.runPromise(socket.reconnect({ backoff: false }))
  page.send = (message) => Effect.runPromise(socket.send(message))
  page.close = () => Effect.runPromise(socket.close(1000, "done"))
  yield* Effect.forkScoped(Stream.runForEach(socket.events, (event) => Effect.sync(() => page.events.push(event._tag))))
  yield* Stream.runForEach(socket.messages, (message) =>
    Effect.sync(() => page.received.push(typeof message === "string" ? message : "bytes:" + message.join())))
})).pipe(Effect.provide(WebSocketDialer.layerGlobal)))
`

const bundle = (outfile: string): Promise<BuildResult<{ metafile: true }>> =>
  build({
    stdin: { contents: script, resolveDir: fileURLToPath(new URL("..", import.meta.url)), loader: "ts" },
    bundle: true,
    platform: "browser",
    format: "esm",
    metafile: true,
    minify: true,
    logLevel: "silent",
    outfile
  })

const bundled = Effect.gen(function*() {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  )
  const file = join(folder, "module.js")
  const { metafile } = yield* Effect.promise(() => bundle(file))
  return { file, metafile }
})

const visit = Effect.fnUntraced(function*(context: BrowserContext, url: string) {
  const tab = yield* Effect.promise(() => context.newPage())
  const problems: Array<unknown> = []
  tab.on("pageerror", (error) => problems.push(error))
  yield* Effect.promise(() => tab.goto(url))
  yield* Effect.promise(() => tab.waitForFunction("globalThis.page?.send"))
  const page = () => Effect.promise(() => tab.evaluate(() => (globalThis as unknown as { readonly page: Page }).page))
  const until = (holds: (page: Page) => boolean) =>
    Effect.repeat(page(), { until: holds }).pipe(Effect.timeout("30 seconds"))
  return { tab, page, problems, until }
})

const opened = (count: number) => ({ events }: Page) => events.filter((tag) => tag === "Opened").length === count

describe("the package's main entry", () => {
  it.scopedLive("is bundled for browsers without any module of Node, and without ws", () =>
    Effect.gen(function*() {
      const { metafile } = yield* bundled
      const inputs = Object.entries(metafile.inputs)
      assert.isTrue(inputs.some(([path]) => path.endsWith("src/ReconnectingSocket.ts")))
      assert.deepStrictEqual(
        inputs.filter(([path]) => /node_modules\/(ws|undici|@effect\/platform-node)\/|src\/node/.test(path)),
        []
      )
      const imported = inputs.flatMap(([path, { imports }]) => imports.map((one) => ({ path, of: one.path })))
      assert.deepStrictEqual(imported.filter(({ of }) => isBuiltin(of)), [])
      const [output] = Object.values(metafile.outputs)
      assert.deepStrictEqual(output!.imports, [])
      print(`the main entry for browsers: ${inputs.length} modules, ${(output!.bytes / 1024).toFixed(0)} KiB minified`)
    }))

  it.scopedLive.runIf(browser)("sends, receives and reconnects in Chromium", () =>
    Effect.gen(function*() {
      const { file } = yield* bundled
      const server = yield* serverProcess({ module: file })
      const context = yield* chromiumContext
      const { page, problems, tab, until } = yield* visit(context, `http://127.0.0.1:${server.port}/`)
      const send = (message: string) =>
        Effect.promise(() =>
          tab.evaluate((message) => (globalThis as unknown as { readonly page: Page }).page.send(message), message)
        )

      yield* send("one")
      yield* until(({ received }) => received.join() === "one")
      for (const kill of [1, 2, 3]) {
        yield* server.kill
        yield* until(({ events }) => events.filter((tag) => tag === "Lost").length === kill)
        // Queued while there is no server.
        yield* send(`queued ${kill}`)
        yield* server.start()
        yield* until(({ received }) => received.at(-1) === `queued ${kill}`)
        yield* until(opened(kill + 1))
      }
      const { received } = yield* page()
      assert.deepStrictEqual(received, ["one", "queued 1", "queued 2", "queued 3"])
      yield* Effect.promise(() => tab.evaluate(() => (globalThis as unknown as { readonly page: Page }).page.close()))
      yield* until(({ events }) => events.at(-1) === "Closed")
      assert.deepStrictEqual((yield* server.report).closed, [{ code: 1000, reason: "done" }])
      assert.deepStrictEqual(problems, [])
      print(`${context.browser()?.version() ?? "Chromium"}: back after three kills, nothing lost of what was queued`)
    }), 120_000)

  it.scopedLive.runIf(browser)(
    "W16: in Chromium nothing is dialed while it is offline, and being online ends a wait",
    () =>
      Effect.gen(function*() {
        const { file } = yield* bundled
        const server = yield* serverProcess({ module: file })
        const context = yield* chromiumContext
        const setOffline = (is: boolean) => Effect.promise(() => context.setOffline(is))
        const { problems, tab, until } = yield* visit(context, `http://127.0.0.1:${server.port}/?patient`)
        yield* until(opened(1))

        yield* server.kill
        yield* until(({ events }) => events.at(-1) === "Waiting")
        yield* server.start()
        yield* setOffline(true)
        yield* setOffline(false)
        // Otherwise the wait takes an hour.
        yield* until(opened(2))

        yield* setOffline(true)
        yield* Effect.promise(() =>
          tab.evaluate(() => (globalThis as unknown as { readonly page: Page }).page.reconnect())
        )
        yield* until(({ events }) => events.at(-1) === "Dialing")
        const { upgrades } = yield* server.report
        yield* Effect.sleep("200 millis")
        assert.strictEqual((yield* server.report).upgrades, upgrades)
        yield* setOffline(false)
        yield* until(opened(3))
        assert.deepStrictEqual(problems, [])
      }),
    120_000
  )
})
