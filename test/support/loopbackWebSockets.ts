/**
 * WebSocket servers on the loopback, within the test's process: the test speaks for each connection.
 */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Http from "node:http"
import type { AddressInfo, Socket } from "node:net"
import { type WebSocket, WebSocketServer } from "ws"

export interface Accepted {
  readonly socket: WebSocket
  readonly request: Http.IncomingMessage
  /** What has come in, as text. */
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

export const eventually = (holds: () => boolean) =>
  Effect.repeat(Effect.sync(holds), { until: (held) => held, schedule: Schedule.spaced("2 millis") }).pipe(
    Effect.timeout("30 seconds")
  )
