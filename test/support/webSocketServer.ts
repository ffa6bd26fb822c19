/** WebSocket servers in their own processes, which tests kill and start again on their port. */
import type { ReconnectingSocket, SocketEvent } from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { bundled } from "./programs.js"
import type { Report, Settings } from "./webSocketServerChild.js"

// -----------------------------------------------------------------------------
// processes
// -----------------------------------------------------------------------------

export interface ServerProcess {
  readonly port: number
  readonly url: (path: string) => string
  /** `kill -9`; done when the process is gone. */
  readonly kill: Effect.Effect<void>
  /** The same without waiting: the caller goes on while the process dies. */
  readonly unsafeKill: () => void
  /** Suspends the process: it neither reads nor closes its connections any more. */
  readonly unsafeStop: () => void
  /** Starts it again on its port. Done when it listens. */
  readonly start: (settings?: { readonly isToDie?: boolean }) => Effect.Effect<void>
  readonly report: Effect.Effect<Report>
  /** Done when the process has ended, for whatever reason. */
  readonly gone: Effect.Effect<void>
  /** The messages that `/log?id=` has received, also before the process was killed. */
  readonly received: (id: string) => ReadonlyArray<string>
}

/**
 * A port outside the range of outgoing connections, since a client that dials a port of that range may be connected to
 * itself.
 */
export const freePort = async (): Promise<number> => {
  for (;;) {
    const probe = createServer()
    probe.listen(15_000 + Math.floor(Math.random() * 17_000), "127.0.0.1")
    const port = await new Promise<number | undefined>((resolve) => {
      probe.once("listening", () => resolve((probe.address() as AddressInfo).port))
      probe.once("error", () => resolve(undefined))
    })
    probe.close()
    if (port !== undefined) return port
  }
}

export const serverProcess = (
  options: Omit<Settings, "port" | "folder"> & { readonly isStarted?: boolean; readonly program?: URL } = {}
): Effect.Effect<ServerProcess, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { isStarted = true, program = new URL("./webSocketServerChild.ts", import.meta.url), ...settings } = options
    const [script, port] = yield* Effect.promise(() => Promise.all([bundled(program), freePort()]))
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-"))),
      (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
    )
    let child: ChildProcess | undefined
    let gone: Promise<unknown> = Promise.resolve()
    let questions = 0

    const start: ServerProcess["start"] = (changed = {}) =>
      Effect.promise(async () => {
        await gone
        const own = fork(script, [JSON.stringify({ ...settings, ...changed, port, folder })], {
          execArgv: [],
          stdio: ["ignore", "ignore", "inherit", "ipc"]
        })
        child = own
        // A process that is asked while it dies does not answer.
        own.on("error", () => {})
        gone = once(own, "exit")
        await new Promise<void>((resolve, reject) => {
          own.once("message", () => resolve())
          own.once("exit", (code) => reject(new Error(`the server ended with ${code}`)))
        })
      })

    const unsafeKill = () => {
      child?.kill("SIGKILL")
    }
    const waited = Effect.promise(() => gone)
    const kill = Effect.zipRight(Effect.sync(unsafeKill), waited)
    yield* Effect.addFinalizer(() => kill)
    if (isStarted) yield* start()

    return {
      port,
      url: (path) => `${settings.tls === undefined ? "ws" : "wss"}://127.0.0.1:${port}${path}`,
      kill,
      unsafeKill,
      unsafeStop: () => {
        child?.kill("SIGSTOP")
      },
      start,
      gone: Effect.asVoid(waited),
      report: Effect.promise(() =>
        new Promise<Report>((resolve) => {
          const id = questions++
          const onMessage = (answer: { readonly id: number; readonly report: Report }) => {
            if (answer.id !== id) return
            child!.off("message", onMessage)
            resolve(answer.report)
          }
          child!.on("message", onMessage)
          child!.send(id)
        })
      ),
      received: (id) => {
        try {
          return readFileSync(join(folder, `${id}.log`), "utf8").split("\n").slice(0, -1)
        } catch {
          return []
        }
      }
    }
  })

// -----------------------------------------------------------------------------
// the way to them
// -----------------------------------------------------------------------------

export interface Hop {
  readonly url: (path: string) => string
  /** Drops all further data on the connections that are open now, in both directions, without notifying either end. */
  readonly swallow: Effect.Effect<void>
  readonly connections: () => number
}

/** A TCP proxy on the way to a port. */
export const hop = (port: number): Effect.Effect<Hop, never, Scope.Scope> =>
  Effect.gen(function*() {
    const sockets = new Set<Socket>()
    const swallowing = new Set<Socket>()
    let connections = 0
    const server = createServer((client) => {
      connections++
      const onward = connect(port, "127.0.0.1")
      const both = [client, onward] as const
      for (const [from, to] of [both, [onward, client] as const]) {
        sockets.add(from)
        from.on("data", (chunk: Buffer) => {
          if (!swallowing.has(client)) to.write(chunk)
        })
        from.on("error", () => {})
        from.on("close", () => {
          sockets.delete(from)
          if (!swallowing.has(client)) to.destroy()
        })
      }
      client.on("close", () => {
        swallowing.delete(client)
        onward.destroy()
      })
    })
    yield* Effect.promise(() => once(server.listen(0, "127.0.0.1"), "listening"))
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        server.close()
        for (const socket of sockets) socket.destroy()
      })
    )
    return {
      url: (path) => `ws://127.0.0.1:${(server.address() as AddressInfo).port}${path}`,
      swallow: Effect.sync(() => {
        for (const socket of sockets) swallowing.add(socket)
      }),
      connections: () => connections
    }
  })

// -----------------------------------------------------------------------------
// what is seen of a socket
// -----------------------------------------------------------------------------

type Tagged<Tag extends SocketEvent["_tag"]> = Extract<SocketEvent, { readonly _tag: Tag }>

export interface Seen {
  readonly all: ReadonlyArray<{ readonly at: number; readonly event: SocketEvent }>
  readonly of: <Tag extends SocketEvent["_tag"]>(tag: Tag) => ReadonlyArray<Tagged<Tag>>
  /** Waits until there have been this many events, and gives the last of them. */
  readonly nth: <Tag extends SocketEvent["_tag"]>(
    tag: Tag,
    count: number
  ) => Effect.Effect<{ readonly at: number; readonly event: Tagged<Tag> }>
}

/** The socket's events from now on, each with the time, in milliseconds, at which it was read. */
export const seeing = (socket: ReconnectingSocket<never, unknown>): Effect.Effect<Seen, never, Scope.Scope> =>
  Effect.gen(function*() {
    const all: Array<{ readonly at: number; readonly event: SocketEvent }> = []
    const looking = new Set<() => void>()
    yield* Effect.forkScoped(Stream.runForEach(socket.events, (event) =>
      Effect.sync(() => {
        all.push({ at: Date.now(), event })
        for (const look of looking) look()
      })))
    // Only events after the start of the reading are recorded.
    yield* Effect.yieldNow()
    const withTag = (tag: string) => all.filter(({ event }) => event._tag === tag)
    return {
      all,
      of: <Tag extends SocketEvent["_tag"]>(tag: Tag) => withTag(tag).map(({ event }) => event as Tagged<Tag>),
      nth: <Tag extends SocketEvent["_tag"]>(tag: Tag, count: number) =>
        Effect.async<{ readonly at: number; readonly event: Tagged<Tag> }>((resume) => {
          const look = () => {
            const found = withTag(tag)[count - 1]
            if (found === undefined) return
            looking.delete(look)
            resume(Effect.succeed(found as { readonly at: number; readonly event: Tagged<Tag> }))
          }
          looking.add(look)
          look()
          return Effect.sync(() => looking.delete(look))
        })
    }
  })

/** Dials again soon after each failure, for tests of many failures in which the delays do not matter. */
export const impatient = (socket: ReconnectingSocket<never, unknown>): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(
    Effect.forkScoped(
      Stream.runForEach(
        socket.events,
        ({ _tag }) => _tag === "Waiting" ? Effect.zipRight(Effect.sleep("5 millis"), socket.reconnect()) : Effect.void
      )
    )
  )

// -----------------------------------------------------------------------------
// what remains in this process
// -----------------------------------------------------------------------------

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

/** The bytes in use, including array buffers, after a garbage collection. */
export const memory: Effect.Effect<number> = Effect.promise(async () => {
  for (let round = 0; round < 3; round++) {
    collect()
    await new Promise((resolve) => setImmediate(resolve))
  }
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return heapUsed + arrayBuffers
})

/** The resources that would keep the process alive, except timers that are about to fire. */
export const resources = (): Readonly<Record<string, number>> => {
  const counted: Record<string, number> = {}
  for (const kind of process.getActiveResourcesInfo()) counted[kind] = (counted[kind] ?? 0) + 1
  return counted
}

/** Waits until the condition holds. */
export const eventually = (holds: () => boolean): Effect.Effect<void> =>
  Effect.suspend(() => holds() ? Effect.void : Effect.zipRight(Effect.sleep("5 millis"), eventually(holds)))

/** Prints a measurement on its own line in the reporter's output. */
export const print = (line: string): void => {
  process.stdout.write(`  ${line}\n`)
}

export const mebi = 1024 * 1024
