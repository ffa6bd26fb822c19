/**
 * A WebSocket server for tests that kill it: its own process, bundled and started by `webSocketServer.ts`. The path of
 * a connection decides what the server does with it. Received messages are in a file before they are answered, so that
 * they are known after a `kill -9`, too.
 *
 * Node runs it as bundled by esbuild.
 */
import { createHash } from "node:crypto"
import { openSync, readFileSync, writeSync } from "node:fs"
import * as Http from "node:http"
import * as Https from "node:https"
import type { Socket } from "node:net"
import { WebSocket, WebSocketServer } from "ws"

export interface Settings {
  readonly port: number
  readonly folder: string
  readonly tls?: { readonly key: string; readonly cert: string } | undefined
  /** The process dies when it reads the first message. */
  readonly isToDie?: boolean | undefined
  /** The module that it serves over HTTP, as text, with a page that runs it. */
  readonly module?: string | undefined
}

/** Everything that the server reports about its connections; see `ask`. */
export interface Report {
  readonly upgrades: number
  readonly open: number
  readonly closed: ReadonlyArray<{ readonly code: number; readonly reason: string }>
  readonly extensions: ReadonlyArray<string>
  /** For `/flood`: how many messages were sent on the connection, and how many bytes of them wait in this process. */
  readonly flooded: number
  readonly buffered: number
  /** The times of the upgrade requests, in epoch milliseconds. */
  readonly arrivals: ReadonlyArray<number>
}

const settings = JSON.parse(process.argv[2]!) as Settings

const plain = new WebSocketServer({ noServer: true, maxPayload: 64 * 1024 * 1024 })
const compressing = new WebSocketServer({ noServer: true, perMessageDeflate: { threshold: 0 } })

const sockets = new Set<WebSocket>()
const closed: Array<{ code: number; reason: string }> = []
const extensions: Array<string> = []
const arrivals: Array<number> = []
const counts = new Map<string, number>()
let flooded = 0

const report = (): Report => ({
  upgrades: arrivals.length,
  open: sockets.size,
  closed,
  extensions,
  flooded,
  buffered: [...sockets].reduce((sum, { bufferedAmount }) => sum + bufferedAmount, 0),
  arrivals
})

/** This many connections of an `id` are bad, from the first on. */
const isBad = (query: URLSearchParams): boolean => {
  const id = query.get("id") ?? ""
  const count = (counts.get(id) ?? 0) + 1
  counts.set(id, count)
  return count <= Number(query.get("bad") ?? 0)
}

const frame = (opcode: number, payload: Uint8Array, { isFinal = true, claimed = payload.length } = {}): Buffer => {
  const head = Buffer.alloc(claimed < 126 ? 2 : 10)
  head[0] = (isFinal ? 0x80 : 0) | opcode
  if (claimed < 126) head[1] = claimed
  else {
    head[1] = 127
    head.writeBigUInt64BE(BigInt(claimed), 2)
  }
  return Buffer.concat([head, payload])
}

const bytes = (text: string): Uint8Array => Buffer.from(text)

/** Frames that no server should send, each after the bytes of the one before it. */
const wrongs: Readonly<Record<string, (socket: Socket) => void>> = {
  truncated: (socket) => socket.end(frame(1, bytes("half"), { claimed: 100 })),
  truncatedHead: (socket) => socket.end(Buffer.of(0x81, 127, 0, 0)),
  cut: (socket) => {
    socket.write(frame(1, bytes("half"), { claimed: 100 }), () => socket.resetAndDestroy())
  },
  ended: (socket) => socket.end(),
  invalidText: (socket) => socket.write(frame(1, Uint8Array.of(0xc3, 0x28))),
  reservedOpcode: (socket) => socket.write(frame(3, bytes("?"))),
  masked: (socket) => socket.write(Buffer.of(0x81, 0x81, 1, 2, 3, 4, 5)),
  reservedBits: (socket) => socket.write(Buffer.of(0xf1, 0x01, 65)),
  fragmentedPing: (socket) => socket.write(frame(9, bytes("?"), { isFinal: false })),
  strayContinuation: (socket) => socket.write(frame(0, bytes("?"))),
  invalidCloseCode: (socket) => socket.write(frame(8, Uint8Array.of(0x03, 0xec))),
  huge: (socket) => {
    socket.write(frame(2, new Uint8Array(0), { claimed: 100 * 1024 * 1024 }))
    pour(socket, 100, (mebi) => mebi)
  },
  hugeInPieces: (socket) => {
    socket.write(frame(2, new Uint8Array(0), { isFinal: false }))
    pour(socket, 100, (mebi) => frame(0, mebi, { isFinal: false }))
  }
}

/** This many MiB, as fast as they are read. */
const pour = (socket: Socket, count: number, wrapped: (mebi: Buffer) => Buffer): void => {
  const mebi = wrapped(Buffer.alloc(1024 * 1024))
  const next = (left: number) => {
    if (left > 0 && !socket.destroyed) socket.write(mebi, () => next(left - 1))
  }
  next(count)
}

/** Answers the upgrade by hand, so that any bytes can follow. */
const upgradedByHand = (request: Http.IncomingMessage, socket: Socket): void => {
  const accept = createHash("sha1")
    .update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
    .digest("base64")
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`
  )
}

const refuse = (socket: Socket, status: number, retryAfter: string | null): void => {
  const header = retryAfter === null ? "" : `Retry-After: ${retryAfter}\r\n`
  socket.end(`HTTP/1.1 ${status} No\r\nConnection: close\r\n${header}Content-Length: 0\r\n\r\n`)
}

/**
 * The behaviour that a path asks for. With `/log` the part of each message before a colon becomes a line of the file.
 */
const ways: Readonly<Record<string, (socket: WebSocket, query: URLSearchParams) => void>> = {
  "/log": (socket, query) => {
    const file = openSync(`${settings.folder}/${query.get("id")}.log`, "a")
    const acknowledges = query.has("acknowledge")
    let last = ""
    socket.on("message", (data: Buffer) => {
      const message = data.toString()
      if (settings.isToDie) process.kill(process.pid, "SIGKILL")
      writeSync(file, `${message.split(":")[0]}\n`)
      if (!acknowledges) return
      // One acknowledgement for many messages, so that there are always unacknowledged ones.
      if (last === "") {
        setImmediate(() => {
          if (socket.readyState === WebSocket.OPEN) socket.send(`ack:${last}`)
          last = ""
        })
      }
      last = message
    })
  },
  "/echo": (socket) => {
    socket.on("message", (data: Buffer, isBinary) => socket.send(data, { binary: isBinary }))
  },
  "/deaf": (socket) => socket.pause(),
  "/flood": (socket, query) => {
    const count = Number(query.get("count"))
    const filler = "x".repeat(Number(query.get("bytes")))
    const next = () => {
      if (flooded < count && socket.readyState === WebSocket.OPEN) socket.send(`${flooded++}:${filler}`, next)
    }
    next()
  },
  "/close": (socket, query) => {
    if (!isBad(query)) return ways["/echo"]!(socket, query)
    const code = query.get("code")
    socket.close(code === null ? undefined : Number(code), query.get("reason") ?? "")
  },
  "/reset": (socket) => socket.terminate()
}

const page = "<!doctype html><title>page</title><script type=module src=/module.js></script>"

const answer = (request: Http.IncomingMessage, response: Http.ServerResponse): void => {
  const isModule = request.url === "/module.js"
  response.writeHead(200, { "content-type": isModule ? "text/javascript" : "text/html" })
  response.end(isModule ? readFileSync(settings.module!, "utf8") : page)
}

const server = settings.tls === undefined ? Http.createServer(answer) : Https.createServer(settings.tls, answer)

server.on("upgrade", (request: Http.IncomingMessage, socket: Socket, head: Buffer) => {
  socket.on("error", () => {})
  arrivals.push(Date.now())
  const { pathname, searchParams } = new URL(request.url!, "http://server")
  const by = pathname === "/compressed" ? compressing : plain
  const upgrade = (then: (socket: WebSocket) => void) =>
    by.handleUpgrade(request, socket, head, (socket) => {
      sockets.add(socket)
      extensions.push(socket.extensions)
      socket.on("error", () => {})
      socket.on("close", (code, reason) => {
        sockets.delete(socket)
        closed.push({ code, reason: reason.toString() })
      })
      then(socket)
    })
  if (pathname === "/refuse" && isBad(searchParams)) {
    return refuse(socket, Number(searchParams.get("status")), searchParams.get("retryAfter"))
  }
  if (pathname === "/silent" && isBad(searchParams)) return
  if (pathname === "/wrong" && isBad(searchParams)) {
    upgradedByHand(request, socket)
    return wrongs[searchParams.get("kind")!]!(socket)
  }
  upgrade((socket) => (ways[pathname] ?? ways["/echo"]!)(socket, searchParams))
})

process.on("message", (id: number) => process.send!({ id, report: report() }))
process.on("disconnect", () => process.exit())

/** The port of the previous process, which may have died only just now. */
const listen = (): void => {
  server.listen(settings.port, "127.0.0.1")
}
server.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EADDRINUSE") setTimeout(listen, 10)
  else process.stderr.write(`${error.stack}\n`)
})
server.on("listening", () => process.send!("listening"))
listen()
