/** The Inspector's page over a real server, in a real browser. */
import { assert, describe, it } from "@effect/vitest"
import * as Inspector from "effect-holdfast/Inspector"
import * as NodeInspector from "effect-holdfast/node/NodeInspector"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import { request } from "node:http"
import { connect } from "node:net"
import type { Page } from "playwright-core"
import { chromiumContext } from "./support/chromium.js"
import { eventually } from "./support/httpServer.js"
import { sumOf } from "./support/metrics.js"
import { quiet } from "./support/quiet.js"
import { browser } from "./support/tools.js"

const canary = "canary-Zq7"

const hostile = "<img src=x onerror=\"globalThis.injected=1\"><script>globalThis.injected=1</script>"

/** Things whose numbers keep changing for the page: one refresh failed, one ref was rolled back. */
const things = Effect.gen(function*() {
  for (const name of ["orders", "billing", hostile]) {
    let next = 0
    const session = yield* Session.make({
      name,
      acquire: Effect.suspend(() =>
        next++ === 1 ? Effect.fail({ _tag: "Denied", why: canary }) : Effect.succeed(canary)
      ),
      maxAge: "1 hour",
      cooldown: 0
    })
    for (let i = 0; i < (name === "orders" ? 4 : 2); i++) {
      yield* Effect.exit(Effect.flatMap(session.current, session.refresh))
    }
  }
  const server = yield* WebSocketDialer.TestServer
  const socket = yield* ReconnectingSocket.make({
    name: "prices",
    dial: { url: `ws://feed.example/?token=${canary}` },
    acknowledge: { id: (text: string) => text, acknowledged: () => [] }
  } as never)
  yield* Effect.flatMap(server.attempt, ({ open }) => open())
  yield* socket.awaitOpen
  yield* socket.send(`${canary} 1` as never)
  const stock = yield* TransactionalRef.make({ secret: canary }, { name: "stock" })
  // The Inspector does not keep a ref that nothing else holds.
  yield* Effect.addFinalizer(() => TransactionalRef.get(stock))
  for (let i = 0; i < 3; i++) yield* TransactionalRef.update(stock, (value) => ({ ...value }))
  yield* Effect.exit(TransactionalRef.updateEffect(stock, () => Effect.fail(canary)))
  const cache = yield* TicketCache.make({ name: "tls" })
  yield* TicketCache.resumed(cache)
  return stock
})

const environment = Layer.mergeAll(Inspector.layer, WebSocketDialer.layerTest, quiet)

const answer = (url: string, path: string, headers: Record<string, string>) =>
  Effect.async<{ readonly status: number; readonly body: string }>((resume) => {
    const sent = request(new URL(path, url), { headers, agent: false }, (response) => {
      const status = response.statusCode!
      if (response.headers["content-type"] === "text/event-stream") {
        response.once("data", (data: Buffer) => {
          sent.destroy()
          resume(Effect.succeed({ status, body: String(data) }))
        })
        return
      }
      let body = ""
      response.on("data", (data: Buffer) => (body += String(data)))
      response.on("end", () => resume(Effect.succeed({ status, body })))
    })
    sent.on("error", () => {})
    sent.end()
  })

/** A client that never ends its connection. */
const holding = (url: string) =>
  Effect.acquireRelease(
    Effect.sync(() => connect({ host: "127.0.0.1", port: Number(new URL(url).port), allowHalfOpen: true })),
    (client) => Effect.sync(() => client.on("error", () => {}).destroy())
  )

describe("NodeInspector", () => {
  it.scopedLive("N3: answers on the loopback only to its own hosts and to the token", () =>
    Effect.gen(function*() {
      yield* things
      const { url } = yield* NodeInspector.serve({ token: Redacted.make(canary) })
      assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/$/)
      const authorization = `Bearer ${canary}`
      const statuses = yield* Effect.forEach(
        [
          ["/", {}],
          ["/snapshot", {}],
          ["/snapshot", { authorization: "Bearer wrong" }],
          ["/events", {}],
          ["/snapshot", { authorization }],
          ["/events", { authorization }],
          ["/snapshot", { authorization, host: "evil.test" }],
          ["/snapshot", { authorization, origin: "http://evil.test" }],
          ["/", { host: "evil.test" }]
        ] as const,
        ([path, headers]) => Effect.map(answer(url, path, headers), ({ status }) => status)
      )
      assert.deepStrictEqual(statuses, [200, 401, 401, 401, 200, 200, 403, 403, 403])
      for (const path of ["/", "/snapshot", "/events"]) {
        assert.notInclude((yield* answer(url, path, { authorization })).body, canary)
      }
      const { body } = yield* answer(url, "/events", { authorization })
      const sent = JSON.parse(body.slice("data: ".length)) as Inspector.Snapshot
      assert.deepStrictEqual(sent.refs, (yield* Inspector.snapshot).refs)
    }).pipe(Effect.provide(environment)))

  it.scopedLive(
    "N3: leaves no fiber when a reader has gone, and can end while one reads",
    () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const { url } = yield* Scope.extend(NodeInspector.serve(), scope)
        const fibers = Effect.map(Fiber.roots, (roots) => [...roots].length)
        const before = yield* fibers
        yield* answer(url, "/events", {})
        yield* eventually(Effect.map(fibers, (count) => count <= before))
        const sent = request(new URL("/events", url))
        const ended = Effect.async<void>((resume) => {
          sent.on("response", (response) => {
            response.on("data", () => {})
            response.once("data", () => Effect.runFork(Scope.close(scope, Exit.void)))
            response.on("error", () => {})
            response.on("close", () => resume(Effect.void))
          })
          sent.on("error", () => {})
        })
        sent.end()
        yield* ended
      }).pipe(Effect.provide(environment)),
    60_000
  )

  it.scopedLive("can end while a client holds on that has asked for an upgrade", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { url } = yield* Scope.extend(NodeInspector.serve(), scope)
      const client = yield* holding(url)
      client.write("GET / HTTP/1.1\r\nhost: elsewhere.test\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
      yield* Effect.async<void>((resume) => void client.once("data", () => resume(Effect.void)))
      yield* Scope.close(scope, Exit.void)
    }).pipe(Effect.provide(environment)))

  it.scopedLive("N3: goes on when a client has asked for an upgrade, and resets the connection", () =>
    Effect.gen(function*() {
      const { url } = yield* NodeInspector.serve()
      for (const host of ["elsewhere.test", "localhost"]) {
        const client = yield* holding(url)
        client.write(`GET / HTTP/1.1\r\nhost: ${host}\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n`)
        yield* Effect.async<void>((resume) => void client.once("data", () => resume(Effect.void)))
        client.resetAndDestroy()
        // The reset, unless it was handled, has ended the process by the answer to the next request.
        assert.strictEqual((yield* Effect.promise(() => fetch(url))).status, 200)
      }
    }).pipe(Effect.provide(environment)))

  it.scopedLive("N3: leaves no fiber of a client that has sent two requests at once and has gone", () =>
    Effect.gen(function*() {
      const { url } = yield* NodeInspector.serve()
      const fibers = Effect.map(Fiber.roots, (roots) => [...roots].length)
      const before = yield* fibers
      const client = yield* holding(url)
      client.write("GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2))
      yield* Effect.async<void>((resume) => void client.once("data", () => resume(Effect.void)))
      client.destroy()
      yield* eventually(Effect.map(fibers, (count) => count <= before))
    }).pipe(Effect.provide(environment)))

  it.scopedLive("answers under each address of the loopback that it listens on", () =>
    Effect.gen(function*() {
      for (const host of ["127.0.0.2", "localhost"]) {
        const { url } = yield* NodeInspector.serve({ host })
        assert.strictEqual((yield* answer(url, "/snapshot", {})).status, 200, host)
        assert.strictEqual((yield* answer(url, "/snapshot", { host: "127.0.0.3" })).status, 403, host)
      }
    }).pipe(Effect.provide(environment)))

  it.scopedLive("listens on an IPv6 address, with the brackets of a URL or without", () =>
    Effect.gen(function*() {
      for (const host of ["::1", "[::1]"]) {
        const { url } = yield* NodeInspector.serve({ host })
        assert.match(url, /^http:\/\/\[::1\]:\d+\/$/)
        assert.strictEqual((yield* answer(url, "/snapshot", {})).status, 200)
      }
    }).pipe(Effect.provide(environment)))

  it.scopedLive("gives the layer of both, and refuses an address beyond the loopback without a token", () =>
    Effect.gen(function*() {
      const logged: Array<string> = []
      const logger = Logger.make(({ message }) => void logged.push(String(message)))
      const names = Effect.gen(function*() {
        yield* Session.make({ acquire: Effect.succeed("token"), name: "beneath" })
        return (yield* Inspector.snapshot).sessions.map(({ name }) => name)
      })
      const inspected = Effect.provide(Effect.scoped(names), NodeInspector.layer())
      const found = yield* Effect.provide(inspected, Logger.replace(Logger.defaultLogger, logger))
      assert.deepStrictEqual(found, ["beneath"])
      assert.match(logged.join(), /^the inspector is at http:\/\/127\.0\.0\.1:\d+\/$/)

      for (const host of ["0.0.0.0", "::", "192.0.2.1"]) {
        const refused = yield* Effect.either(Effect.provide(Effect.void, NodeInspector.layer({ host })))
        assert.isTrue(
          Either.isLeft(refused) && refused.left._tag === "InvalidOptions" && refused.left.option === "host"
        )
      }
      for (const [option, wrong] of [["options", null], ["host", { host: 5, token: Redacted.make("t") }]] as const) {
        const given = wrong as unknown as NodeInspector.Options
        const refused = yield* Effect.either(Effect.provide(Effect.void, NodeInspector.layer(given)))
        assert.isTrue(
          Either.isLeft(refused) && refused.left._tag === "InvalidOptions" && refused.left.option === option
        )
      }
      const beyond = { host: "0.0.0.0", token: Redacted.make("t") }
      const unnamed = yield* Effect.either(Effect.provide(Effect.void, NodeInspector.layer(beyond)))
      assert.isTrue(Either.isLeft(unnamed) && unnamed.left._tag === "InvalidOptions" && unnamed.left.option === "hosts")
      const refused = yield* Effect.either(Effect.provide(Effect.void, NodeInspector.layer({ port: 70_000 })))
      assert.isTrue(Either.isLeft(refused) && refused.left._tag === "InvalidOptions" && refused.left.option === "port")
    }))
})

/** The texts of a table's body, by row, and of its last row. */
const tableOf = (page: Page, kind: string) =>
  Effect.promise(() =>
    page.evaluate((kind) => {
      const texts = (selector: string) =>
        [...document.querySelectorAll(`#${kind} ${selector}`)].map((row) =>
          [...(row as HTMLTableRowElement).cells].map((cell) =>
            (cell.querySelector(".state, :scope > span:first-child") ?? cell).textContent!
          )
        )
      const heads = [...document.querySelectorAll(`#${kind} thead th`)]
      return {
        heads: heads.map(({ textContent }) => textContent!),
        sorted: heads.map((head) => head.getAttribute("aria-sort")!),
        rows: texts("tbody tr"),
        sums: texts("tfoot tr")[0]
      }
    }, kind)
  )

const opened = (path: string, options: { readonly width?: number; readonly dark?: boolean } = {}) =>
  Effect.gen(function*() {
    const context = yield* chromiumContext
    const page = yield* Effect.promise(() => context.newPage())
    const problems: Array<string> = []
    page.on("pageerror", ({ message }) => problems.push(message))
    page.on("console", (said) => problems.push(said.text()))
    yield* Effect.promise(() => page.setViewportSize({ width: options.width ?? 1200, height: 900 }))
    yield* Effect.promise(() => page.emulateMedia({ colorScheme: options.dark === true ? "dark" : "light" }))
    const requests: Array<{ readonly url: string; readonly headers: Record<string, string> }> = []
    page.on("request", (request) => requests.push({ url: request.url(), headers: request.headers() }))
    yield* Effect.promise(() => page.goto(path))
    return { page, problems, requests }
  })

const live = (page: Page) => Effect.promise(() => page.waitForSelector("#link[data-tone=good]", { timeout: 30_000 }))

describe.runIf(browser)("the page", () => {
  it.scopedLive(
    "N2: has the numbers of the metrics, no secret, and no markup of a hostile name",
    () =>
      Effect.gen(function*() {
        const before = ["orders", "billing"].map((session) => sumOf("holdfast_session_refreshes_total", { session }))
        const commits = sumOf("holdfast_transactional_ref_commits_total", { ref: "stock" })
        yield* things
        const token = `${canary}-token`
        const { url } = yield* NodeInspector.serve({ token: Redacted.make(token) })
        const { page, problems, requests } = yield* opened(`${url}#token=${token}`)
        yield* live(page)

        const sessions = yield* tableOf(page, "sessions")
        const [refreshed, failed] = ["Refreshed", "Failed"].map((title) => sessions.heads.indexOf(title)) as [
          number,
          number
        ]
        assert.deepStrictEqual(sessions.rows.map(([name]) => name), [hostile, "billing", "orders"])
        for (const [i, name] of ["orders", "billing"].entries()) {
          const row = sessions.rows.find(([of]) => of === name)!
          assert.strictEqual(
            Number(row[refreshed]) + Number(row[failed]),
            sumOf("holdfast_session_refreshes_total", { session: name }) - before[i]!
          )
        }
        assert.deepStrictEqual([sessions.sums![refreshed], sessions.sums![failed]], ["8", "3"])
        const refs = yield* tableOf(page, "refs")
        assert.deepStrictEqual(
          [refs.rows[0]![refs.heads.indexOf("Commits")], refs.rows[0]![refs.heads.indexOf("Rollbacks")]],
          [String(sumOf("holdfast_transactional_ref_commits_total", { ref: "stock" }) - commits), "1"]
        )

        const seen = yield* Effect.promise(() =>
          page.evaluate(() => ({
            injected: "injected" in globalThis,
            images: document.images.length,
            scripts: document.scripts.length,
            text: document.documentElement.outerHTML + JSON.stringify({ ...localStorage, ...sessionStorage })
              + document.cookie
          }))
        )
        assert.deepStrictEqual([seen.injected, seen.images, seen.scripts], [false, 0, 1])
        assert.notInclude(seen.text, canary)
        assert.notInclude(yield* Effect.promise(() => page.content()), canary)

        const outside = requests.filter((request) => !request.url.startsWith(url) && !request.url.startsWith("data:"))
        assert.deepStrictEqual(outside, [])
        assert.isTrue(requests.every((request) => !request.url.split("#")[0]!.includes(token)))
        assert.deepStrictEqual(problems, [])
      }).pipe(Effect.provide(environment)),
    90_000
  )

  it.scopedLive(
    "N1: shows events live, sorts by keyboard, and does not change while it is paused",
    () =>
      Effect.gen(function*() {
        const stock = yield* things
        const { url } = yield* NodeInspector.serve()
        const { page, problems } = yield* opened(url)
        yield* live(page)
        const commits = Effect.map(tableOf(page, "refs"), ({ heads, rows }) => rows[0]![heads.indexOf("Commits")])
        assert.strictEqual(yield* commits, "3")
        yield* TransactionalRef.update(stock, (value) => ({ ...value }))
        yield* eventually(Effect.map(commits, (count) => count === "4"))

        const press = (key: string) => Effect.promise(() => page.keyboard.press(key))
        const focused = Effect.promise(() =>
          page.evaluate(() => {
            const { activeElement } = document
            return `${activeElement?.closest("section")?.id ?? ""} ${activeElement?.textContent ?? ""}`
          })
        )
        // Tab alone leads to every heading.
        yield* Effect.repeat(Effect.zipRight(press("Tab"), focused), { until: (text) => text === "sessions Refreshed" })
        for (
          const [direction, names] of [
            ["descending", ["orders", hostile, "billing"]],
            ["ascending", [hostile, "billing", "orders"]]
          ] as const
        ) {
          yield* press("Enter")
          const { heads, rows, sorted } = yield* tableOf(page, "sessions")
          assert.strictEqual(sorted[heads.indexOf("Refreshed")], direction)
          assert.strictEqual(sorted.filter((how) => how !== "none").length, 1)
          assert.strictEqual(rows.map(([name]) => name).indexOf("orders"), names.indexOf("orders"))
        }

        yield* Effect.promise(() => page.focus("#pause"))
        yield* press("Enter")
        yield* TransactionalRef.update(stock, (value) => ({ ...value }))
        // For longer than the time from one snapshot to the next.
        yield* Effect.promise(() => page.waitForResponse(() => true, { timeout: 1_200 }).catch(() => undefined))
        assert.strictEqual(yield* commits, "4")
        assert.strictEqual(yield* Effect.promise(() => page.getAttribute("#pause", "aria-pressed")), "true")
        yield* press("Enter")
        yield* eventually(Effect.map(commits, (count) => count === "5"))

        yield* Effect.promise(() => page.fill("#filter", "BILL"))
        assert.deepStrictEqual((yield* tableOf(page, "sessions")).rows.map(([name]) => name), ["billing"])
        assert.deepStrictEqual(problems, [])
      }).pipe(Effect.provide(environment)),
    90_000
  )

  it.scopedLive(
    "N3: takes any token from the address, and asks for another one if it cannot be one",
    () =>
      Effect.gen(function*() {
        yield* things
        const { url } = yield* NodeInspector.serve({ token: Redacted.make("q8Zk+Jw/3c&0mYg==") })
        const { page } = yield* opened(`${url}#token=q8Zk+Jw/3c&0mYg==`)
        yield* live(page)
        const { page: other } = yield* opened(`${url}#token=…`)
        yield* Effect.promise(() => other.waitForSelector("#ask:not([hidden])"))
        yield* Effect.promise(() => other.locator("#link", { hasText: "the token is wrong" }).waitFor())
      }).pipe(Effect.provide(environment)),
    90_000
  )

  it.scopedLive(
    "N1: shows 200 rows at most, also of what has gone, and grows by nothing while it is paused",
    () =>
      Effect.gen(function*() {
        const stock = yield* things
        yield* Effect.forEach(Array.from({ length: 250 }, (_, n) => n), (n) =>
          Effect.scoped(Session.make({ name: `gone ${n}`, acquire: Effect.succeed(n) })))
        const { url } = yield* NodeInspector.serve()
        const { page } = yield* opened(url)
        yield* live(page)
        assert.lengthOf((yield* tableOf(page, "sessions")).rows, 200)
        yield* Effect.promise(() =>
          page.locator("#sessions", { hasText: "Showing 200 of 253" }).waitFor()
        )
        const marks = Effect.promise(() => page.evaluate(() => document.querySelectorAll("#lanes svg *").length))
        yield* Effect.promise(() => page.click("#pause"))
        const before = yield* marks
        const fail = Effect.exit(TransactionalRef.updateEffect(stock, () => Effect.fail(canary)))
        yield* Effect.repeatN(fail, 9)
        // For longer than the time from one snapshot to the next.
        yield* Effect.promise(() => page.waitForResponse(() => true, { timeout: 1_200 }).catch(() => undefined))
        assert.strictEqual(yield* marks, before)
        yield* Effect.promise(() => page.click("#pause"))
        yield* eventually(Effect.map(marks, (count) => count >= before + 10))
      }).pipe(Effect.provide(environment)),
    90_000
  )

  it.scopedLive(
    "N1: fits into 400 pixels, is dark if the system is, and labels what it shows",
    () =>
      Effect.gen(function*() {
        yield* things
        const { url } = yield* NodeInspector.serve()
        const { page } = yield* opened(url, { width: 400, dark: true })
        yield* live(page)
        const seen = yield* Effect.promise(() =>
          page.evaluate(() => ({
            width: document.documentElement.scrollWidth,
            paper: getComputedStyle(document.body).backgroundColor,
            unnamed: [...document.querySelectorAll("section, table, [tabindex], input, button")].filter((element) =>
              !(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby") ||
                element.closest("label")?.textContent || element.querySelector("caption")?.textContent ||
                element.textContent?.trim())
            ).length,
            columns: [...document.querySelectorAll("th")].every(({ scope }) => scope === "col")
          }))
        )
        assert.deepStrictEqual(seen, { width: 400, paper: "rgb(19, 23, 26)", unnamed: 0, columns: true })
      }).pipe(Effect.provide(environment)),
    90_000
  )

  it.scopedLive(
    "N3: asks for a missing token, and connects again to the next process",
    () =>
      Effect.gen(function*() {
        yield* things
        const token = Redacted.make(canary)
        const scope = yield* Scope.make()
        const { url } = yield* Scope.extend(NodeInspector.serve({ token }), scope)
        const { page } = yield* opened(url)
        yield* Effect.promise(() => page.waitForSelector("#ask:not([hidden])"))
        assert.strictEqual((yield* tableOf(page, "sessions")).rows.length, 0)
        yield* Effect.promise(() => page.fill("#token", "wrong"))
        yield* Effect.promise(() => page.keyboard.press("Enter"))
        yield* Effect.promise(() => page.locator("#link", { hasText: "wrong" }).waitFor())
        yield* Effect.promise(() => page.fill("#token", canary))
        yield* Effect.promise(() => page.keyboard.press("Enter"))
        yield* live(page)
        assert.isTrue(yield* Effect.promise(() => page.isHidden("#ask")))

        yield* Scope.close(scope, Exit.void)
        yield* Effect.promise(() => page.waitForSelector("#link[data-tone=bad]"))
        yield* NodeInspector.serve({ token, port: Number(new URL(url).port) })
        yield* live(page)
      }).pipe(Effect.provide(environment)),
    90_000
  )
})
