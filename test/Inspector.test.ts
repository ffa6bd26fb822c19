import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import { assert, describe, it } from "@effect/vitest"
import * as Inspector from "effect-holdfast/Inspector"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { many } from "./support/exits.js"
import { sumOf } from "./support/metrics.js"
import { dial, pass, serving, steady } from "./support/reconnectingSockets.js"
import { held, Refused, upstream } from "./support/sessions.js"
import { settle } from "./support/settle.js"

const inspected = <A, E>(
  name: string,
  effect: () => Effect.Effect<
    A,
    E,
    Inspector.Inspector | Scope.Scope | WebSocketDialer.WebSocketDialer | WebSocketDialer.TestServer
  >
) => it.scoped(name, () => Effect.provide(effect(), Layer.merge(Inspector.layer, WebSocketDialer.layerTest)))

/** The things of each test have their own names, since metrics belong to the process. */
let names = 0
const newName = (kind: string) => `inspected ${kind} ${names++}`

const key = { host: "tls.example", port: 443 }

const ticket = { session: new Uint8Array(100).fill(7), issuedAt: 0, expiresAt: 3_600_000 }

describe("a snapshot", () => {
  inspected(
    "N1: shows a session's generation, times, waiters and last refreshes",
    () =>
      Effect.gen(function*() {
        const up = upstream()
        const session = yield* Session.make({ ...up, name: "api", maxAge: "1 minute", cooldown: "5 seconds" })
        const row = Effect.map(Inspector.snapshot, ({ sessions }) => sessions[0]!)
        const idle = {
          id: 1,
          name: "api",
          state: "Idle" as const,
          generation: null,
          acquiredAt: null,
          expiresAt: null,
          serving: false,
          waiters: 0,
          since: null,
          retryAt: null,
          refreshes: {},
          last: []
        }
        assert.deepStrictEqual(yield* row, idle)

        yield* TestClock.adjust("1 seconds")
        const signIn = yield* held(Effect.succeed("token"))
        up.next(signIn.answer)
        const waiting = yield* Effect.fork(many(3, session.current))
        yield* settle
        assert.deepStrictEqual(yield* row, { ...idle, state: "Refreshing", since: 1_000, waiters: 3 })

        yield* TestClock.adjust("2 seconds")
        yield* signIn.release
        yield* Fiber.join(waiting)
        const first = { at: 3_000, outcome: "success", millis: 2_000, waiters: 3, reason: undefined }
        const active = {
          ...idle,
          state: "Active" as const,
          generation: 0,
          acquiredAt: 3_000,
          expiresAt: 63_000,
          serving: true,
          refreshes: { success: 1 },
          last: [first]
        }
        assert.deepStrictEqual(yield* row, active)

        up.next(Effect.fail(new Refused("no")))
        yield* Effect.exit(session.refresh(yield* session.current))
        assert.deepStrictEqual(yield* row, {
          ...active,
          state: "Failing",
          since: 3_000,
          retryAt: 8_000,
          refreshes: { success: 1, failure: 1 },
          last: [{ at: 3_000, outcome: "failure", millis: 0, waiters: 1, reason: "Refused" }, first]
        })
        yield* session.end
        const { events } = yield* Inspector.snapshot
        assert.deepStrictEqual(
          events.map(({ at, detail, event, id, kind, millis, name, number }) =>
            [number, at, kind, id, name, event, detail, millis].join(" ")
          ),
          [
            "0 3000 sessions 1 api Refreshed success 2000",
            "1 3000 sessions 1 api Refreshed failure: Refused 0",
            "2 3000 sessions 1 api Ended  "
          ]
        )
      })
  )

  inspected(
    "N1: shows a socket's state, attempts, delays, outbox, losses and round trips",
    () =>
      Effect.gen(function*() {
        const server = yield* serving
        const socket = yield* ReconnectingSocket.make({
          name: "feed",
          dial,
          backoff: steady,
          outbox: { capacity: 2, overflow: "dropOldest" },
          heartbeat: {
            interval: "10 seconds",
            timeout: "5 seconds",
            ping: () => "ping",
            isPong: (text) => text === "pong"
          }
        })
        const row = Effect.map(Inspector.snapshot, ({ sockets }) => sockets[0]!)
        assert.deepStrictEqual((yield* row).state, "Dialing")
        yield* pass(500)
        const peer = yield* server.open
        const open = yield* row
        assert.deepStrictEqual([open.state, open.since, open.dials, open.opened], ["Open", 500, { success: 1 }, 1])

        yield* pass(10_000)
        yield* TestClock.adjust("20 millis")
        yield* peer.send("pong")
        yield* settle
        assert.deepStrictEqual([(yield* row).roundTrip, (yield* row).roundTrips], [20, 1])

        yield* peer.close(1012, "restart")
        yield* settle
        for (const message of ["a", "b", "c"]) yield* socket.send(message)
        assert.deepStrictEqual(yield* row, {
          id: 1,
          name: "feed",
          state: "Waiting",
          since: 10_520,
          attempt: 1,
          delay: 1_000,
          until: 11_520,
          failure: "1012",
          outbox: 2,
          unacknowledged: 0,
          oldest: 10_520,
          roundTrip: 20,
          dials: { success: 1 },
          opened: 1,
          lost: { 1012: 1 },
          rejected: {},
          dropped: { Overflow: 1 },
          roundTrips: 1
        })
        yield* socket.close()
        assert.deepStrictEqual((yield* Inspector.snapshot).sockets, [])
        const { events } = yield* Inspector.snapshot
        assert.deepStrictEqual(events.map(({ event }) => event), ["Dialing", "Opened", "Lost", "Waiting", "Closed"])
      })
  )

  inspected(
    "N1: shows which fiber holds a ref with a name and how many wait, and leaves out other refs",
    () =>
      Effect.gen(function*() {
        const named = yield* TransactionalRef.make(0, { name: "stock" })
        const nameless = yield* TransactionalRef.make(0)
        const row = Effect.map(Inspector.snapshot, ({ refs }) => refs[0]!)
        const goOn = yield* Deferred.make<void>()
        yield* TestClock.adjust("3 seconds")
        const change = TransactionalRef.updateEffect(named, (n) => Effect.as(Deferred.await(goOn), n + 1))
        const first = yield* Effect.fork(change)
        const second = yield* Effect.fork(change)
        yield* settle
        const { holder, since, waiters } = yield* row
        assert.deepStrictEqual({ holder, since, waiters }, { holder: `#${first.id().id}`, since: 3_000, waiters: 1 })
        yield* Deferred.succeed(goOn, undefined)
        yield* Fiber.joinAll([first, second])
        yield* Effect.exit(TransactionalRef.updateEffect(named, () => Effect.fail("no")))
        yield* TransactionalRef.update(nameless, (n) => n + 1)
        const { refs } = yield* Inspector.snapshot
        assert.deepStrictEqual(refs, [
          { id: 1, name: "stock", holder: null, since: null, waiters: 0, commits: 2, rollbacks: 1 }
        ])
      })
  )

  inspected(
    "N1: shows the content of a cache of tickets and the outcomes of its tickets",
    () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make({ name: "tls" })
        yield* TicketCache.put(cache, key, ticket)
        yield* TicketCache.put(cache, key, { ...ticket, issuedAt: 1 })
        const taken = yield* TicketCache.take(cache, key)
        assert.strictEqual(taken._tag, "Some")
        yield* TicketCache.reject(cache, key, ticket)
        const { tickets } = yield* Inspector.snapshot
        assert.deepStrictEqual(tickets, [{
          id: 1,
          name: "tls",
          servers: 0,
          tickets: 0,
          bytes: 0,
          offered: 1,
          resumed: 0,
          refused: 1,
          expired: 0,
          dropped: 1
        }])
      })
  )

  it.effect("N1: has everything that was made with its layer provided, and nothing else", () =>
    Effect.gen(function*() {
      class Api extends Effect.Service<Api>()("InspectedApi", {
        scoped: Session.make({ acquire: Effect.succeed("token"), name: "beneath" })
      }) {}
      const elsewhere = Session.make({ acquire: Effect.succeed("token"), name: "elsewhere" })
      const names = Effect.map(Inspector.snapshot, ({ sessions }) => sessions.map(({ name }) => name))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* elsewhere
        const beneath = Layer.provideMerge(Api.Default, Inspector.layer)
        assert.deepStrictEqual(yield* Effect.provide(names, beneath), ["beneath"])
      }))
    }))
})

describe("the numbers", () => {
  const things = Effect.sync(() => {
    const [session, socket, ref, cache] = ["session", "socket", "ref", "cache"].map(newName) as [
      string,
      string,
      string,
      string
    ]
    const use = Effect.gen(function*() {
      const up = upstream()
      const api = yield* Session.make({ ...up, name: session, cooldown: 0, timeout: "1 second" })
      yield* api.current
      up.next(Effect.fail(new Refused("no")), Effect.die("bug"), Effect.never)
      yield* Effect.exit(api.refresh(yield* api.current))
      yield* Effect.exit(api.refresh(yield* api.current))
      const slow = yield* Effect.fork(Effect.exit(api.refresh(yield* api.current)))
      yield* settle
      yield* TestClock.adjust("1 seconds")
      yield* Fiber.join(slow)

      const server = yield* serving
      const feed = yield* ReconnectingSocket.make({ name: socket, dial, backoff: steady })
      yield* server.refuse(503)
      yield* pass(1_000)
      const peer = yield* server.open
      yield* peer.close(1001, "")
      yield* settle
      yield* feed.send("a")

      const stock = yield* TransactionalRef.make(0, { name: ref })
      yield* TransactionalRef.update(stock, (n) => n + 1)
      yield* Effect.exit(TransactionalRef.updateEffect(stock, () => Effect.fail("no")))

      const tickets = yield* TicketCache.make({ name: cache })
      yield* TicketCache.put(tickets, key, ticket)
      yield* TicketCache.put(tickets, key, { ...ticket, issuedAt: 1 })
      yield* TicketCache.take(tickets, key)
      yield* TicketCache.resumed(tickets)
    })
    return { names: { session, socket, ref, cache }, use }
  })

  const total = (counts: Readonly<Record<string, number>>) => Object.values(counts).reduce((a, b) => a + b, 0)

  /** The sums that the page shows for a name, by the name of the metric that they must be equal to. */
  const sums = (snapshot: Inspector.Snapshot, names: { readonly [kind: string]: string }) => {
    const of = <T extends { readonly name: string }>(rows: ReadonlyArray<T>, name: string, value: (row: T) => number) =>
      rows.filter((row) => row.name === name).reduce((sum, row) => sum + value(row), 0)
    const sessions = [...snapshot.sessions, ...snapshot.gone.sessions]
    const sockets = [...snapshot.sockets, ...snapshot.gone.sockets]
    const refs = [...snapshot.refs, ...snapshot.gone.refs]
    const tickets = [...snapshot.tickets, ...snapshot.gone.tickets]
    const [session, socket, ref, cache] = [names["session"]!, names["socket"]!, names["ref"]!, names["cache"]!]
    return {
      ...Object.fromEntries(["success", "failure", "timeout", "defect"].map((outcome) => [
        `session_refreshes_total ${outcome}`,
        of(sessions, session, ({ refreshes }) => refreshes[outcome] ?? 0)
      ])),
      socket_dials_total: of(sockets, socket, ({ dials }) => total(dials)),
      "socket_dials_total refused": of(sockets, socket, ({ dials }) => dials["refused"] ?? 0),
      socket_opened_total: of(sockets, socket, ({ opened }) => opened),
      "socket_lost_total 1001": of(sockets, socket, ({ lost }) => lost["1001"] ?? 0),
      socket_messages_dropped_total: of(sockets, socket, ({ dropped }) => total(dropped)),
      socket_outbox_messages: of(snapshot.sockets, socket, ({ outbox }) => outbox),
      socket_unacknowledged: of(snapshot.sockets, socket, ({ unacknowledged }) => unacknowledged),
      ...Object.fromEntries(["Dialing", "Opening", "Open", "Waiting"].map((state) => [
        `socket_state ${state}`,
        of(snapshot.sockets, socket, (row) => row.state === state ? 1 : 0)
      ])),
      transactional_ref_commits_total: of(refs, ref, ({ commits }) => commits),
      transactional_ref_rollbacks_total: of(refs, ref, ({ rollbacks }) => rollbacks),
      ...Object.fromEntries((["offered", "resumed", "refused", "expired", "dropped"] as const).map((count) => [
        `tickets_${count}_total`,
        of(tickets, cache, (row) => row[count])
      ]))
    }
  }

  const metrics = (shown: Readonly<Record<string, number>>, names: { readonly [kind: string]: string }) =>
    Object.fromEntries(
      Object.keys(shown).map((line) => {
        const [metric, detail] = line.split(" ") as [string, string | undefined]
        const kind = /^(session|socket|transactional_ref|tickets)/.exec(metric)![1]!
        const label = { session: "session", socket: "socket", transactional_ref: "ref", tickets: "cache" }[kind]!
        const by = { session: "outcome", socket: metric.includes("lost") ? "reason" : "outcome" }[kind] ?? ""
        const key = metric === "socket_state" ? "state" : by
        return [line, sumOf(`holdfast_${metric}`, { [label]: names[label]!, ...detail && { [key]: detail } })]
      })
    )

  inspected("N2: of each name add up to its metrics, over what lives and what has gone", () =>
    Effect.gen(function*() {
      const { names, use } = yield* things
      yield* Effect.scoped(use)
      yield* use
      const shown: Readonly<Record<string, number>> = sums(yield* Inspector.snapshot, names)
      assert.deepStrictEqual(shown, metrics(shown, names))
      assert.deepInclude(shown, {
        "session_refreshes_total success": 2,
        "session_refreshes_total failure": 2,
        "session_refreshes_total timeout": 2,
        "session_refreshes_total defect": 2,
        "socket_lost_total 1001": 2,
        socket_messages_dropped_total: 1,
        socket_outbox_messages: 1,
        "socket_state Waiting": 1,
        transactional_ref_commits_total: 2,
        tickets_resumed_total: 2,
        tickets_dropped_total: 1
      })
    }))

  inspected("N2: of sessions of a map are those of its sessions, dropped ones included", () =>
    Effect.gen(function*() {
      const name = newName("map")
      const map = yield* SessionMap.make({
        lookup: (key: string) => ({ acquire: Effect.succeed(key), name }),
        idleTimeToLive: 0
      })
      for (const key of ["a", "b", "c"]) {
        yield* Effect.scoped(Effect.flatMap(SessionMap.get(map, key), (session) => session.current))
      }
      const { gone, sessions } = yield* Inspector.snapshot
      assert.deepStrictEqual(sessions, [])
      assert.deepStrictEqual(gone.sessions, [{ name, things: 3, refreshes: { success: 3 } }])
      assert.strictEqual(sumOf("holdfast_session_refreshes_total", { session: name }), 3)
    }))

  inspected(
    "N2: of a socket that has dialed before it had a name are those of its metrics",
    () =>
      Effect.gen(function*() {
        const unknown = () => sumOf("holdfast_socket_dials_total", { socket: "unknown" })
        const before = unknown()
        const server = yield* serving
        let isAway = true
        yield* ReconnectingSocket.make({
          dial: Effect.suspend(() =>
            isAway ? Effect.fail("no token yet") : Effect.succeed({ url: "ws://later.example" })
          ),
          backoff: steady,
          retryable: () => true
        })
        yield* settle
        isAway = false
        yield* pass(1_000)
        yield* server.open
        const { gone, sockets } = yield* Inspector.snapshot
        assert.deepStrictEqual(sockets.map(({ dials, name }) => [name, dials]), [["later.example", { success: 1 }]])
        assert.deepStrictEqual(
          gone.sockets.map(({ dials, name, things }) => [
            name,
            things,
            Object.values(dials).reduce((sum, count) => sum + count, 0)
          ]),
          [["unknown", 0, unknown() - before]]
        )
      })
  )

  inspected(
    "N2: of tickets include what a connection reports after its cache's scope has closed",
    () =>
      Effect.gen(function*() {
        const name = newName("cache")
        const scope = yield* Scope.make()
        const cache = yield* Scope.extend(TicketCache.make({ name }), scope)
        yield* TicketCache.put(cache, key, ticket)
        const taken = Option.getOrThrow(yield* TicketCache.take(cache, key))
        yield* Scope.close(scope, Exit.void)
        yield* TicketCache.reject(cache, key, taken)
        yield* TicketCache.put(cache, key, ticket)
        const [row] = (yield* Inspector.snapshot).gone.tickets
        for (const count of ["offered", "refused", "dropped"] as const) {
          assert.strictEqual(row![count], sumOf(`holdfast_tickets_${count}_total`, { cache: name }), count)
        }
        assert.deepStrictEqual([row!.things, row!.refused, row!.dropped], [1, 1, 1])
      })
  )

  inspected("N2: of refs that nobody has any more are kept, and the refs are not", () =>
    Effect.gen(function*() {
      setFlagsFromString("--expose-gc")
      const collect = runInNewContext("gc") as () => void
      const name = newName("ref")
      yield* Effect.repeatN(
        Effect.flatMap(TransactionalRef.make({ large: new Uint8Array(1e5) }, { name }), (ref) =>
          TransactionalRef.update(ref, (value) => ({ ...value }))),
        9
      )
      const gone = Effect.gen(function*() {
        // Garbage is collected, and the registry notified, between turns of the event loop.
        yield* Effect.async<void>((resume) =>
          void setImmediate(() => resume(Effect.void))
        )
        collect()
        const { gone: { refs: left }, refs } = yield* Inspector.snapshot
        const mine = [...left, ...refs].filter((row) => row.name === name)
        assert.strictEqual(mine.reduce((sum, row) => sum + row.commits, 0), 10)
        return left.find((row) => row.name === name)?.things ?? 0
      })
      yield* Effect.repeat(gone, { until: (things) => things >= 9 })
      const { gone: { refs: left }, refs } = yield* Inspector.snapshot
      const commits = [...left, ...refs].filter((row) => row.name === name).reduce((sum, row) => sum + row.commits, 0)
      assert.strictEqual(commits, 10)
      assert.strictEqual(sumOf("holdfast_transactional_ref_commits_total", { ref: name }), 10)
    }))

  inspected("N2: and all else show no value, message, ticket or error's message", () =>
    Effect.gen(function*() {
      const canary = "canary7Kq2"
      const session = yield* Session.make({
        acquire: Effect.succeed(`token ${canary}`),
        renew: () => Effect.fail({ _tag: "Denied", message: canary, reason: canary, error: canary }),
        name: "api"
      })
      yield* Effect.exit(session.refresh(yield* session.current))
      const server = yield* serving
      const socket = yield* ReconnectingSocket.make({
        dial: { url: `ws://user:${canary}@host.example/${canary}?token=${canary}` },
        backoff: steady
      })
      const peer = yield* server.open
      yield* peer.send(canary)
      yield* peer.close(1011, canary)
      yield* settle
      yield* socket.send(canary)
      const ref = yield* TransactionalRef.make(canary, { name: "ref" })
      yield* Effect.exit(TransactionalRef.updateEffect(ref, () => Effect.fail(canary)))
      const cache = yield* TicketCache.make()
      yield* TicketCache.put(cache, { ...key, identity: canary, partition: canary }, ticket)
      const text = JSON.stringify(yield* Inspector.snapshot)
      assert.include(text, "host.example")
      assert.notInclude(text, canary)
    }))
})

describe("what it costs", () => {
  it.scoped("N3: no fiber and no timer, while the data is not read", () =>
    Effect.gen(function*() {
      const use = Effect.gen(function*() {
        const before = (yield* Fiber.roots).length
        yield* TransactionalRef.make(0, { name: "ref" })
        yield* TicketCache.make()
        const session = yield* Session.make({ acquire: Effect.succeed("token") })
        yield* session.current
        yield* Effect.flatMap(serving, () => ReconnectingSocket.make({ dial }))
        yield* settle
        return { timers: Chunk.size(yield* TestClock.sleeps()), fibers: (yield* Fiber.roots).length - before }
      }).pipe(Effect.scoped, Effect.provide(WebSocketDialer.layerTest))
      // The test's clock keeps the timers of fibers that have been interrupted.
      const without = yield* use
      const kept = Chunk.size(yield* TestClock.sleeps())
      const { fibers, timers } = yield* Effect.provide(use, Inspector.layer)
      assert.deepStrictEqual({ fibers, timers: timers - kept }, without)
    }))

  inspected("N3: no more than the last 256 events are kept, of all things together", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0, { name: "ref" })
      yield* Effect.repeatN(Effect.exit(TransactionalRef.updateEffect(ref, () => Effect.fail("no"))), 999)
      const { events } = yield* Inspector.snapshot
      assert.deepStrictEqual(events.map(({ number }) => number), Array.from({ length: 256 }, (_, i) => 744 + i))
    }))

  inspected("N3: the sums of more than 1,000 names that have gone are kept together", () =>
    Effect.gen(function*() {
      for (let i = 0; i < 1_003; i++) {
        yield* Effect.scoped(Effect.flatMap(TicketCache.make({ name: `one of many ${i}` }), TicketCache.resumed))
      }
      const { gone } = yield* Inspector.snapshot
      assert.lengthOf(gone.tickets, 1_001)
      assert.deepStrictEqual(gone.tickets.at(-1), {
        name: "(other names)",
        things: 3,
        offered: 0,
        resumed: 3,
        refused: 0,
        expired: 0,
        dropped: 0
      })
    }))
})

describe("its routes", () => {
  const token = Redacted.make("canary-token")

  const asked = (
    options: Inspector.RouterOptions,
    path: string,
    headers: Record<string, string>
  ): Effect.Effect<Response> =>
    Effect.gen(function*() {
      const app = HttpRouter.empty.pipe(HttpRouter.mount("/inspector", Inspector.router(options)))
      const { dispose, handler } = HttpApp.toWebHandlerLayer(app, Inspector.layer)
      const response = yield* Effect.promise(() => handler(new Request(`http://ignored${path}`, { headers })))
      yield* Effect.addFinalizer(() => Effect.promise(dispose))
      return response
    }).pipe(Effect.scoped)

  const statusOf = (options: Inspector.RouterOptions, headers: Record<string, string>, path = "/inspector/snapshot") =>
    Effect.map(asked(options, path, headers), ({ status }) => status)

  const authorization = "Bearer canary-token"

  it.effect("N3: refuse a host or an origin that is not in `hosts`, for the page too", () =>
    Effect.gen(function*() {
      for (const path of ["/inspector", "/inspector/snapshot", "/inspector/events"]) {
        const status = (headers: Record<string, string>) => statusOf({}, headers, path)
        for (const host of ["localhost", "localhost:80", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:1"]) {
          assert.strictEqual(yield* status({ host }), 200, host)
          assert.strictEqual(yield* status({ host, origin: `http://${host}` }), 200, host)
        }
        for (
          const host of [
            "evil.test",
            "127.0.0.1.evil.test",
            "localhost.evil.test:80",
            "evil.test:80@localhost",
            "localhost#",
            ""
          ]
        ) {
          assert.strictEqual(yield* status({ host }), 403, host)
        }
        assert.strictEqual(yield* status({}), 403)
        for (
          const origin of ["http://evil.test", "null", "file://", "http://localhost.evil.test", "http://x@localhost"]
        ) {
          assert.strictEqual(yield* status({ host: "localhost", origin }), 403, origin)
        }
      }
    }))

  it.effect("N3: refuse a missing and a wrong token", () =>
    Effect.gen(function*() {
      const status = (given?: string) =>
        statusOf({ token }, { host: "localhost", ...given !== undefined && { authorization: given } })
      assert.strictEqual(yield* status(authorization), 200)
      assert.strictEqual(yield* status("bearer canary-token"), 200)
      for (
        const wrong of [
          undefined,
          "",
          "Bearer",
          "Bearer ",
          "canary-token",
          "Basic canary-token",
          "Bearer canary-toke",
          "Bearer canary-token2",
          "Bearer Canary-token",
          "Bearer canary-tokencanary-token"
        ]
      ) {
        assert.strictEqual(yield* status(wrong), 401, wrong)
      }
      assert.strictEqual(yield* statusOf({ token }, { host: "localhost" }, "/inspector"), 200)
      assert.strictEqual(yield* statusOf({ token }, { host: "localhost" }, "/inspector/events"), 401)
    }))

  it.effect("N3: have a page that contains no data, loads nothing and cannot be framed", () =>
    Effect.gen(function*() {
      const response = yield* asked({ token }, "/inspector", { host: "localhost", authorization })
      const page = yield* Effect.promise(() => response.text())
      assert.notInclude(page, "canary-token")
      assert.notMatch(page, /https?:\/\/(?!www\.w3\.org\/2000\/svg)|@import|url\(/)
      const policy = response.headers.get("content-security-policy")!
      const [, nonce] = /script-src 'nonce-([^']+)'/.exec(policy)!
      assert.include(page, `<script nonce="${nonce}">`)
      assert.include(policy, "default-src 'none'")
      assert.include(policy, "frame-ancestors 'none'")
      assert.strictEqual(response.headers.get("cache-control"), "no-store")
      assert.strictEqual(response.headers.get("referrer-policy"), "no-referrer")
    }))

  it.each<readonly [string, Inspector.RouterOptions, string]>([
    ["an empty token", { token: Redacted.make("") }, "token"],
    ["a token that no header can carry", { token: Redacted.make("canary token") }, "token"],
    ["a token that is not Redacted", { token: "canary" as never }, "token"],
    ["what is no object", "canary" as never, "options"],
    ["null", null as never, "options"],
    ["no hosts", { hosts: [], token }, "hosts"],
    ["a URL as a host", { hosts: ["http://ops.example.com"], token }, "hosts"],
    ["a host with a port", { hosts: ["ops.example.com:80"], token }, "hosts"],
    ["a host beyond the loopback without a token", { hosts: ["localhost", "ops.example.com"] }, "hosts"]
  ])("refuse %s", (_, options, option) => {
    const refused = Either.flip(Either.try(() => Inspector.router(options)))
    const error = Either.getOrThrow(refused)
    assert.instanceOf(error, InvalidOptions)
    assert.strictEqual(error.option, option)
    assert.notInclude(error.message, "canary")
  })
})
