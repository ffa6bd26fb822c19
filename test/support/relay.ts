/** A relay to a server on which the test makes the network fail. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"

export interface Relay {
  /** The server's URL through the relay. */
  readonly url: string
  /**
   * `down` cuts all connections and accepts no new ones; `silent` forwards no data, and keeps what arrives meanwhile; a
   * number is the delay of all data in milliseconds.
   */
  readonly set: (weather: "up" | "down" | "silent" | number) => void
}

export const relay = (url: string): Effect.Effect<Relay, never, Scope.Scope> =>
  Effect.gen(function*() {
    const to = new URL(url)
    const target = { port: Number(to.port), host: to.hostname }
    let weather: "up" | "down" | "silent" | number = "up"
    const sockets = new Set<Socket>()
    const held: Array<() => void> = []
    const pass = (from: Socket, onto: Socket): void => {
      sockets.add(from)
      from.on("data", (chunk) => {
        const send = () => void (onto.destroyed || onto.write(chunk))
        if (weather === "silent") held.push(send)
        else if (typeof weather === "number") setTimeout(send, weather)
        else send()
      })
      from.on("error", () => {})
      from.on("close", () => {
        sockets.delete(from)
        onto.destroy()
      })
    }
    const server = createServer((client) => {
      if (weather === "down") return void client.resetAndDestroy()
      const onward = connect(target)
      pass(client, onward)
      pass(onward, client)
    })
    yield* Effect.acquireRelease(
      Effect.async<void>((resume) => {
        server.listen(0, "127.0.0.1", () => resume(Effect.void))
      }),
      () =>
        Effect.async<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of sockets) socket.destroy()
        })
    )
    to.hostname = "127.0.0.1"
    to.port = String((server.address() as AddressInfo).port)
    return {
      url: to.href,
      set: (next) => {
        weather = next
        if (next === "down") {
          held.length = 0
          for (const socket of sockets) socket.resetAndDestroy()
        }
        if (next !== "silent") { for (const send of held.splice(0)) send() }
      }
    }
  })
