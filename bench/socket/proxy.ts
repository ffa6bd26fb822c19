import * as Net from "node:net"

export interface Proxy {
  readonly port: number
  readonly close: () => Promise<void>
}

/** A proxy for `port` on this machine that delays all data by the given milliseconds, each way. */
export const startProxy = (port: number, millis: number): Promise<Proxy> =>
  new Promise((resolve) => {
    const sockets = new Set<Net.Socket>()
    // Timers of the same length go off in the order in which they were set.
    const carry = (from: Net.Socket, to: Net.Socket) => {
      sockets.add(from)
      from.setNoDelay(true)
      from.on("data", (chunk) => setTimeout(() => to.writable && to.write(chunk), millis))
      // `close` reports it as well.
      from.on("error", () => {})
      from.on("close", () => {
        sockets.delete(from)
        setTimeout(() => to.destroySoon(), millis)
      })
    }
    const server = Net.createServer((client) => {
      const upstream = Net.connect(port, "127.0.0.1")
      carry(client, upstream)
      carry(upstream, client)
    })
    server.listen(0, "127.0.0.1", () =>
      resolve({
        port: (server.address() as Net.AddressInfo).port,
        close: () =>
          new Promise((resolve) => {
            server.close(() => resolve())
            for (const socket of sockets) socket.destroy()
          })
      }))
  })
