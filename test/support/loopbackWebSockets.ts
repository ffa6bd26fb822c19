/** WebSocket servers on the loopback, within the test's process: the test plays the server of each connection. */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import { createHash } from "node:crypto"
import * as Http from "node:http"
import * as Net from "node:net"
import type { AddressInfo, Socket } from "node:net"
import { type WebSocket, WebSocketServer } from "ws"

export interface Accepted {
  readonly socket: WebSocket
  readonly request: Http.IncomingMessage
  /** The messages that have come in, as text. */
  readonly got: Array<string>
}

/** `answer` may answer an upgrade itself. */
export const serving = (answer: (socket: Socket) => boolean = () => false) =>
  Effect.gen(function*() {
    const accepted = yield* Queue.unbounded<Accepted>()
    const transports = new Set<Socket>()
    const upgrades = new WebSocketServer({ noServer: true, handleProtocols: (names) => [...names].at(-1) ?? false })
    const server = Http.createServer()
    let dials = 0
    server.on("connection", (socket: Socket) => {
      transports.add(socket)
      socket.on("close", () => transports.delete(socket))
    })
    server.on("upgrade", (request, socket, head) => {
      dials++
      if (answer(socket as Socket)) return
      upgrades.handleUpgrade(request, socket, head, (socket) => {
        const got: Array<string> = []
        socket.on("error", () => {})
        socket.on("message", (data: Buffer) => got.push(data.toString()))
        accepted.unsafeOffer({ socket, request, got })
      })
    })
    yield* Effect.async<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    })
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        server.close()
        for (const transport of transports) transport.destroy()
      })
    )
    const { port } = server.address() as AddressInfo
    return {
      url: `ws://127.0.0.1:${port}/path`,
      port,
      accept: Effect.timeout(Queue.take(accepted), "30 seconds"),
      transports,
      dials: () => dials
    }
  })

/**
 * A server that upgrades by hand, and leaves TCP open whatever the client does. The test writes to the sockets itself.
 */
export const halfOpen = Effect.gen(function*() {
  const accepted = yield* Queue.unbounded<Socket>()
  const sockets = new Set<Socket>()
  const server = Net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket)
    socket.on("error", () => {})
    let head = ""
    const onData = (data: Buffer) => {
      head += data.toString("latin1")
      const key = /sec-websocket-key: (.*)\r\n[^]*\r\n\r\n/i.exec(head)?.[1]
      if (key === undefined) return
      socket.off("data", onData).resume()
      const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64")
      socket.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
          + `Sec-WebSocket-Accept: ${accept}\r\n\r\n`
      )
      accepted.unsafeOffer(socket)
    }
    socket.on("data", onData)
  })
  yield* Effect.async<void>((resume) => {
    server.listen(0, "127.0.0.1", () => resume(Effect.void))
  })
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      server.close()
      for (const socket of sockets) socket.destroy()
    })
  )
  const { port } = server.address() as AddressInfo
  return { url: `ws://127.0.0.1:${port}`, accept: Effect.timeout(Queue.take(accepted), "30 seconds") }
})

/** A server's close frame, as bytes (RFC 6455 section 5.5.1). */
export const closeFrame = (code?: number, reason = ""): ReadonlyArray<number> =>
  code === undefined
    ? [0x88, 0]
    : [0x88, 2 + Buffer.byteLength(reason), code >> 8, code & 255, ...Buffer.from(reason)]

export const eventually = (holds: () => boolean) =>
  Effect.repeat(Effect.sync(holds), { until: (held) => held, schedule: Schedule.spaced("2 millis") }).pipe(
    Effect.timeout("30 seconds")
  )
