/** TLS servers in their own processes, and a recorder of the clients' offers between client and server. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, fork, spawn } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { bundled } from "./programs.js"
import type { Command, Handshakes, NodeSettings, Report, Settings } from "./tlsServerChild.js"

export type { Handshakes, Report, Seen } from "./tlsServerChild.js"

// -----------------------------------------------------------------------------
// processes
// -----------------------------------------------------------------------------

interface ServerChild {
  readonly port: number
  readonly kill: Effect.Effect<void>
  readonly ask: <A extends Handshakes>(command: Command) => Effect.Effect<A>
}

/** The longest time that a process may take to start or to end on a busy machine. */
const patience = 60_000

const serverChild = (settings: Settings): Effect.Effect<ServerChild, never, Scope.Scope> =>
  Effect.gen(function*() {
    const script = yield* Effect.promise(() => bundled(new URL("./tlsServerChild.ts", import.meta.url)))
    let questions = 0
    const { child, gone } = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const child = fork(script, [JSON.stringify(settings)], {
          execArgv: [],
          stdio: ["ignore", "ignore", "inherit", "ipc"]
        })
        // A process that is asked while it dies does not answer.
        child.on("error", () => {})
        return { child, gone: once(child, "exit").catch(() => {}) }
      }),
      ({ child, gone }) => Effect.promise(() => ended(child, gone))
    )
    const port = yield* Effect.promise(() =>
      new Promise<number>((resolve, reject) => {
        const late = setTimeout(() => reject(new Error("the server does not start")), patience)
        child.once("message", (message: { readonly port: number }) => {
          clearTimeout(late)
          resolve(message.port)
        })
        child.once("exit", (code) => {
          clearTimeout(late)
          reject(new Error(`the server ended with ${code}`))
        })
      })
    )

    return {
      port,
      kill: Effect.promise(() => ended(child, gone)),
      ask: <A extends Handshakes>(command: Command) =>
        Effect.promise(() =>
          new Promise<A>((resolve, reject) => {
            const id = questions++
            const stop = () => {
              child.off("message", onMessage)
              child.off("exit", onExit)
            }
            const onExit = (why?: unknown) => {
              stop()
              reject(new Error(`the server is gone: ${String(why)}`))
            }
            const onMessage = (answer: { readonly id: number; readonly report?: A; readonly error?: string }) => {
              if (answer.id !== id) return
              stop()
              if (answer.report === undefined) reject(new Error(answer.error))
              else resolve(answer.report)
            }
            child.on("message", onMessage)
            child.once("exit", onExit)
            child.send({ id, command }, (error) => {
              if (error !== null) onExit(error)
            })
          })
        )
    }
  })

/**
 * Not immediately by `SIGKILL`: if the process runs the `openssl` command line's server, it must end that one first.
 */
const ended = async (child: ChildProcess, gone: Promise<unknown>): Promise<void> => {
  if (child.connected) child.disconnect()
  const late = setTimeout(() => child.kill("SIGKILL"), patience)
  await gone
  clearTimeout(late)
}

export interface TlsServer {
  readonly port: number
  /** The URL on `localhost`, or on another name for it. */
  readonly url: (path?: string, host?: string) => string
  /** Kills the process, so each connection ends without a `close_notify`. Done when the port is free. */
  readonly kill: Effect.Effect<void>
}

const urlTo = (port: number): TlsServer["url"] => (path = "/", host = "localhost") => `https://${host}:${port}${path}`

// -----------------------------------------------------------------------------
// Node's server
// -----------------------------------------------------------------------------

export interface NodeTlsServerOptions extends Omit<NodeSettings, "kind" | "ticketKeys" | "sessionIdContext"> {
  /** 48 bytes. Default: random keys. */
  readonly ticketKeys?: Uint8Array
  /**
   * Node's default is a digest of the command line: two processes with the same ticket keys would still refuse each
   * other's tickets. Here it is the same for all servers.
   */
  readonly sessionIdContext?: string
}

export interface NodeTlsServer extends TlsServer {
  /**
   * A handshake has been counted when the client has an answer to any data that it has sent on the connection. In TLS
   * 1.3 the client completes the handshake before the server does.
   */
  readonly report: Effect.Effect<Report>
  /** From now on the server refuses its earlier tickets. By default the keys are random. */
  readonly rotateTicketKeys: (ticketKeys?: Uint8Array) => Effect.Effect<void>
  /**
   * Sets the certificate of later connections. The ticket keys are new, too, as usual in Node, unless they are to be
   * kept.
   */
  readonly swap: (
    certificate: { readonly key: string; readonly cert: string },
    options?: { readonly keepsTicketKeys?: boolean }
  ) => Effect.Effect<void>
  /** Closes the connections properly, one by one. Done when all are closed. */
  readonly closeConnections: Effect.Effect<void>
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64")

/**
 * A server that answers any path with its knowledge of the connection: see `Seen`. It uses HTTP/2 if ALPN has chosen
 * that, otherwise HTTP/1.1, in which it also upgrades to a WebSocket that echoes.
 *
 * In TLS 1.3 it gives two tickets after a full handshake, and none after a resumed one. In TLS 1.2 it gives one after a
 * full handshake, and none after a resumed one either.
 */
export const nodeTlsServer = (
  options: NodeTlsServerOptions
): Effect.Effect<NodeTlsServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { sessionIdContext = "holdfast", ticketKeys, ...settings } = options
    const { ask, kill, port } = yield* serverChild({
      kind: "node",
      sessionIdContext,
      ...settings,
      ticketKeys: ticketKeys === undefined ? undefined : base64(ticketKeys)
    })
    const done = (command: Command) => Effect.asVoid(ask(command))
    return {
      port,
      url: urlTo(port),
      kill,
      report: ask({ _tag: "Report" }),
      rotateTicketKeys: (ticketKeys = randomBytes(48)) =>
        done({ _tag: "SetTicketKeys", ticketKeys: base64(ticketKeys) }),
      swap: ({ cert, key }, { keepsTicketKeys = false } = {}) => done({ _tag: "Swap", key, cert, keepsTicketKeys }),
      closeConnections: done({ _tag: "CloseConnections" })
    }
  })

// -----------------------------------------------------------------------------
// the openssl command line's server
// -----------------------------------------------------------------------------

export interface OpensslServerOptions {
  readonly key: string
  readonly cert: string
  /** By default the client's version. */
  readonly version?: "1.2" | "1.3"
  /** The number of tickets after a full handshake of TLS 1.3. Default: 2. */
  readonly numTickets?: number
  /** Such as `-no_ticket`, for session ids instead, or `-max_early_data 16384`, for tickets that allow early data. */
  readonly extraArgs?: ReadonlyArray<string>
}

export interface OpensslServer extends TlsServer {
  /** Like Node's server's. */
  readonly report: Effect.Effect<Handshakes>
}

const folder: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

/**
 * `openssl s_server -www`: it answers a `GET` with a page about the session, in HTTP/1.0, and closes the connection.
 *
 * The server serves **one connection at a time**. Other connections are open as far as TCP is concerned, but their
 * hello is not read until the current one has ended: a client that holds its connection without a `GET` stops all
 * others, and a pool uses its connections in turn. The server ends a connection by itself only after a `GET`.
 *
 * In TLS 1.3 it gives `numTickets` tickets after a full handshake, and one after each resumption, which is OpenSSL's
 * default. In TLS 1.2 it gives one after a full handshake, none after a resumption. A ticket is accepted each time it
 * is offered; with `-max_early_data` once, against replays.
 */
export const opensslServer = (options: OpensslServerOptions): Effect.Effect<OpensslServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { cert, extraArgs = [], key, numTickets, version } = options
    const secrets = yield* folder
    writeFileSync(join(secrets, "key.pem"), key)
    writeFileSync(join(secrets, "cert.pem"), cert)
    const args = [
      "-www",
      "-key",
      join(secrets, "key.pem"),
      "-cert",
      join(secrets, "cert.pem"),
      ...(version === undefined ? [] : [`-tls${version.replace(".", "_")}`]),
      ...(numTickets === undefined ? [] : ["-num_tickets", String(numTickets)]),
      ...extraArgs
    ]
    const { ask, kill, port } = yield* serverChild({ kind: "openssl", args })
    return { port, url: urlTo(port), kill, report: ask({ _tag: "Report" }) }
  })

// -----------------------------------------------------------------------------
// a server that does not answer
// -----------------------------------------------------------------------------

/**
 * The port of a server that cannot be reached: its process is suspended and its queue is full, so that TCP gets no
 * answer.
 */
export const blackHole: Effect.Effect<number, never, Scope.Scope> = Effect.gen(function*() {
  const script = `
    const server = require("node:net").createServer()
    server.listen({ port: 15000 + Math.floor(Math.random() * 17000), host: "127.0.0.1", backlog: 1 }, () => {
      process.stdout.write(String(server.address().port) + "\\n")
    })`
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const [port] = yield* Effect.promise(() => once(child.stdout, "data") as Promise<[Buffer]>)
  child.kill("SIGSTOP")
  yield* Effect.acquireRelease(
    Effect.sync(() => Array.from({ length: 8 }, () => connect(Number(port), "127.0.0.1").on("error", () => {}))),
    (sockets) =>
      Effect.sync(() => {
        for (const socket of sockets) socket.destroy()
      })
  )
  yield* Effect.sleep("20 millis")
  return Number(port)
})

// -----------------------------------------------------------------------------
// the recorder
// -----------------------------------------------------------------------------

/** The offers in a client's hello. Digests are SHA-256, in hex. */
export interface Hello {
  readonly servername: string | undefined
  readonly alpn: ReadonlyArray<string>
  readonly offersTls13: boolean
  /** TLS 1.3: digests of the identities in `pre_shared_key`, each of which is a ticket. */
  readonly identities: ReadonlyArray<string>
  /** TLS 1.2: the digest of the content of `session_ticket`, if it is not empty. */
  readonly ticket: string | undefined
  /**
   * The digest of the session id, if there is one. It is meaningful only if neither TLS 1.3 nor a ticket is offered:
   * otherwise it is random.
   */
  readonly sessionId: string | undefined
  /** Digests of everything that could resume a session, in either version. Empty if the client offers no resumption. */
  readonly offered: ReadonlyArray<string>
  readonly hasEarlyData: boolean
}

/** One TCP connection. */
export interface Passage {
  /** The hello has not arrived yet, or is not TLS. */
  readonly hello: Hello | undefined
  /** The numbers of bytes from the client, and to it. */
  readonly up: number
  readonly down: number
  readonly isOpen: boolean
}

export type Fault =
  /** Nothing listens on the port until the fault is removed. */
  | { readonly _tag: "Refuse" }
  /** Accepts the connection, reads the hello, and does not forward it. */
  | { readonly _tag: "BlackHole" }
  /** The hello is read, and does not go on. */
  | { readonly _tag: "CutAfterHello"; readonly by?: "reset" | "end" }
  /** When the client has been sent this many bytes, all of which it gets. */
  | { readonly _tag: "CutAfter"; readonly bytes: number; readonly by?: "reset" | "end" }
  /**
   * Changes one byte of the first ticket offered, or of its binder. A hello without a ticket is left unchanged. Since
   * only the server sees the change, no handshake gets beyond the hello: the two sides do not agree on its content.
   */
  | { readonly _tag: "Corrupt"; readonly part: "identity" | "binder"; readonly byte: number }

export interface Recorder {
  readonly port: number
  readonly url: TlsServer["url"]
  /** One for each connection, in the order in which they were read; grows. */
  readonly hellos: ReadonlyArray<Hello>
  readonly passages: ReadonlyArray<Passage>
  /** Applies the fault to new connections: this many, or all until it is removed. */
  readonly inject: (fault: Fault, times?: number) => Effect.Effect<void>
  readonly heal: Effect.Effect<void>
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

/** Reads data with its length before it, and fails if there is less. */
const reader = (bytes: Buffer, start: number, end = bytes.length) => {
  let at = start
  const next = (length: number): number => {
    const before = at
    if (before + length > end) throw new RangeError("too short")
    at += length
    return before
  }
  return {
    isDone: () => at >= end,
    skip: next,
    number: (width: number) => bytes.readUIntBE(next(width), width),
    /** A part of the data, and its position. */
    vector: (width: number) => {
      const length = bytes.readUIntBE(next(width), width)
      const from = next(length)
      return { from, bytes: bytes.subarray(from, from + length) }
    }
  }
}

interface Parsed {
  readonly hello: Hello
  /** The positions in the hello of the parts that can be corrupted. */
  readonly places: Readonly<Partial<Record<"identity" | "binder", { readonly from: number; readonly length: number }>>>
}

const extension = {
  serverName: 0,
  alpn: 16,
  sessionTicket: 35,
  preSharedKey: 41,
  earlyData: 42,
  supportedVersions: 43
}

/** The offers of a `ClientHello`, without the header of the handshake message. */
const parseHello = (body: Buffer): Parsed => {
  const head = reader(body, 2 + 32)
  const session = head.vector(1).bytes
  head.vector(2)
  head.vector(1)
  const extensions = new Map<number, { readonly from: number; readonly bytes: Buffer }>()
  if (!head.isDone()) {
    const { bytes, from } = head.vector(2)
    const all = reader(body, from, from + bytes.length)
    while (!all.isDone()) extensions.set(all.number(2), all.vector(2))
  }
  const within = (type: number) => {
    const found = extensions.get(type)
    return found === undefined ? undefined : reader(body, found.from, found.from + found.bytes.length)
  }
  /** The vectors in a vector. */
  const listIn = (of: ReturnType<typeof reader> | undefined, width: number, before = 0, after = 0) => {
    const list: Array<{ readonly from: number; readonly bytes: Buffer }> = []
    if (of === undefined) return list
    const { bytes, from } = of.vector(2)
    const items = reader(body, from, from + bytes.length)
    while (!items.isDone()) {
      items.skip(before)
      list.push(items.vector(width))
      items.skip(after)
    }
    return list
  }

  const psk = within(extension.preSharedKey)
  const identities = listIn(psk, 2, 0, 4)
  const binders = listIn(psk, 1)
  const ticketExtension = extensions.get(extension.sessionTicket)
  const ticket = ticketExtension?.bytes.length === 0 ? undefined : ticketExtension
  const versions = within(extension.supportedVersions)?.vector(1).bytes ?? Buffer.alloc(0)
  const offersTls13 = /^(....)*0304/.test(versions.toString("hex"))
  const sessionId = session.length === 0 ? undefined : sha256(session)

  const [identity, binder] = [identities[0] ?? ticket, binders[0]]
  const place = (of: typeof identity) => of === undefined ? undefined : { from: of.from, length: of.bytes.length }
  const digests = identities.map(({ bytes }) => sha256(bytes))
  const ticketDigest = ticket === undefined ? undefined : sha256(ticket.bytes)
  const idOnly = offersTls13 || ticket !== undefined ? undefined : sessionId
  const [identityPlace, binderPlace] = [place(identity), place(binder)]
  return {
    hello: {
      servername: listIn(within(extension.serverName), 2, 1)[0]?.bytes.toString("latin1"),
      alpn: listIn(within(extension.alpn), 1).map(({ bytes }) => bytes.toString("latin1")),
      offersTls13,
      identities: digests,
      ticket: ticketDigest,
      sessionId,
      offered: [...digests, ticketDigest, idOnly].filter((digest) => digest !== undefined),
      hasEarlyData: extensions.has(extension.earlyData)
    },
    places: {
      ...(identityPlace === undefined ? {} : { identity: identityPlace }),
      ...(binderPlace === undefined ? {} : { binder: binderPlace })
    }
  }
}

/**
 * The hello of a connection, as soon as it is complete. It may be in several records; then positions in the hello
 * differ from positions in the bytes, so the latter are given.
 */
const readHello = (raw: Buffer): Parsed | "incomplete" | "not TLS" => {
  try {
    return readRecords(raw)
  } catch {
    return "not TLS"
  }
}

const readRecords = (raw: Buffer): Parsed | "incomplete" | "not TLS" => {
  const pieces: Array<Buffer> = []
  const starts: Array<{ readonly inRaw: number; readonly inMessage: number }> = []
  let [at, length] = [0, 0]
  for (;;) {
    if (raw.length > at && raw[at] !== 22) return "not TLS"
    const message = Buffer.concat(pieces)
    if (message.length > 0 && message[0] !== 1) return "not TLS"
    const whole = message.length < 4 ? Infinity : 4 + message.readUIntBE(1, 3)
    if (message.length >= whole) {
      const { hello, places } = parseHello(message.subarray(4, whole))
      const inRaw = (place: number): number => {
        const start = starts.findLast(({ inMessage }) => inMessage <= place + 4)!
        return start.inRaw + place + 4 - start.inMessage
      }
      const moved = Object.entries(places).map(([part, { from, length }]) => [part, { from: inRaw(from), length }])
      return { hello, places: Object.fromEntries(moved) as Parsed["places"] }
    }
    if (raw.length < at + 5) return "incomplete"
    const size = raw.readUInt16BE(at + 3)
    if (raw.length < at + 5 + size) return "incomplete"
    starts.push({ inRaw: at + 5, inMessage: length })
    pieces.push(raw.subarray(at + 5, at + 5 + size))
    length += size
    at += 5 + size
  }
}

/** A bound that is longer than any hello, and short enough to be cheap. */
const longestHello = 64 * 1024

/**
 * A TCP proxy on the loopback that parses hellos. It reads only the first hello of a connection: a second one, which
 * the server may request, belongs to the same handshake and offers the same.
 *
 * The recorder is in this process, unlike the servers, so that its records can be read synchronously, and a fault
 * applies exactly from the time at which the test sets it.
 */
export const recorder = (port: number): Effect.Effect<Recorder, never, Scope.Scope> =>
  Effect.gen(function*() {
    const hellos: Array<Hello> = []
    const passages: Array<Passage> = []
    const sockets = new Set<Socket>()
    let fault: Fault | undefined
    let left = Infinity

    const nextFault = (): Fault | undefined => {
      if (left <= 0) return undefined
      left--
      return fault
    }

    const cut = (socket: Socket, by: "reset" | "end" = "reset") => {
      if (by === "end") socket.end()
      else socket.resetAndDestroy()
    }

    const known = (socket: Socket) => {
      sockets.add(socket)
      socket.on("error", () => {})
      socket.on("close", () => sockets.delete(socket))
    }

    const forward = (from: Socket, to: Socket) => {
      from.on("end", () => to.end())
      from.on("close", (hasFailed) => {
        if (hasFailed && !to.destroyed) to.resetAndDestroy()
      })
      to.on("drain", () => from.resume())
    }

    const pass = (client: Socket) => {
      const passage = { hello: undefined as Hello | undefined, up: 0, down: 0, isOpen: true }
      passages.push(passage)
      known(client)
      client.on("close", () => {
        passage.isOpen = false
      })
      const faulty = nextFault()
      let onward: Socket | undefined
      let first: Buffer | undefined = Buffer.alloc(0)

      const goOn = (bytes: Buffer) => {
        const server = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
        onward = server
        known(server)
        forward(client, server)
        forward(server, client)
        server.on("data", (chunk: Buffer) => {
          const allowed = faulty?._tag === "CutAfter" ? faulty.bytes - passage.down : Infinity
          if (client.destroyed || allowed < 0) return
          const sent = chunk.subarray(0, allowed)
          passage.down += sent.length
          if (chunk.length >= allowed) {
            server.destroy()
            client.write(sent, () => cut(client, faulty?._tag === "CutAfter" ? faulty.by : undefined))
          } else if (!client.write(sent)) server.pause()
        })
        server.write(bytes)
      }

      client.on("data", (chunk: Buffer) => {
        passage.up += chunk.length
        if (onward !== undefined) {
          if (!onward.write(chunk)) client.pause()
          return
        }
        if (first === undefined) return
        first = Buffer.concat([first, chunk])
        const read = readHello(first)
        if (read === "incomplete" && first.length < longestHello) return
        const bytes = first
        first = undefined
        if (typeof read === "object") {
          passage.hello = read.hello
          hellos.push(read.hello)
          const place = faulty?._tag === "Corrupt" ? read.places[faulty.part] : undefined
          if (faulty?._tag === "Corrupt" && place !== undefined) {
            bytes[place.from + faulty.byte % place.length]! ^= 0xff
          }
        }
        if (faulty?._tag === "CutAfterHello") cut(client, faulty.by)
        else if (faulty?._tag !== "BlackHole") goOn(bytes)
      })
      // If a client disconnects before its hello, the server does not learn of the connection.
      client.on("end", () => {
        if (onward === undefined) client.end()
      })
    }

    let server: Server | undefined
    const listen = async (wanted?: number): Promise<number> => {
      for (;;) {
        const own = createServer({ allowHalfOpen: true }, pass)
        // A port outside the range of outgoing connections: while no server listens on a port of that range, a client
        // that dials it may be connected to itself.
        own.listen(wanted ?? 15_000 + Math.floor(Math.random() * 17_000), "127.0.0.1")
        const isListening = await new Promise<boolean>((resolve) => {
          own.once("listening", () => resolve(true))
          own.once("error", () => resolve(false))
        })
        if (isListening) {
          server = own
          return (own.address() as AddressInfo).port
        }
      }
    }
    const stopListening = Effect.sync(() => {
      server?.close()
      server = undefined
    })

    yield* Effect.addFinalizer(() =>
      Effect.zipRight(
        stopListening,
        Effect.sync(() => {
          for (const socket of sockets) socket.destroy()
        })
      )
    )
    const own = yield* Effect.promise(() => listen())
    const listenAgain = Effect.suspend(() => server === undefined ? Effect.promise(() => listen(own)) : Effect.void)
    const settle = (next: Fault | undefined, times: number) =>
      Effect.zipRight(
        next?._tag === "Refuse" ? stopListening : listenAgain,
        Effect.sync(() => {
          fault = next
          left = times
        })
      )

    return {
      port: own,
      url: urlTo(own),
      hellos,
      passages,
      inject: (fault, times = Infinity) => settle(fault, times),
      heal: settle(undefined, Infinity)
    }
  })
