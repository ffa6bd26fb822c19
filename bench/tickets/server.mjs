/**
 * The servers, in a separate process, so that their CPU is not counted; each is also behind a relay that reads the
 * unencrypted part of handshakes. It is plain JavaScript, because compiling would take most of its start.
 *
 * `http` answers each request and closes; `silent` closes as soon as it has done its handshake. Both are Node's, which
 * gives two tickets after a whole handshake with TLS 1.3, and none after one that was resumed. `openssl` is the command
 * line's `s_server`, which gives one after one that was resumed. It serves one connection at a time: others wait.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect, createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { createServer as createTlsServer } from "node:tls"
import { firstMessage } from "./wire.mjs"

const settings = JSON.parse(process.argv[2])

const children = []
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")))
// The process that started it is gone.
process.on("disconnect", () => process.exit())

const listening = async (server) => {
  server.listen({ host: "127.0.0.1", port: 0, backlog: 511 })
  await once(server, "listening")
  return server.address().port
}

const body = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"

const ofNode = ({ intermediate, key, kind, own, version }) => {
  const server = createTlsServer({
    cert: own + intermediate,
    key,
    ...version === undefined ? {} : { minVersion: version, maxVersion: version },
    ...kind === "http" ? { ALPNProtocols: ["http/1.1"] } : {}
  })
  server.on("secureConnection", (socket) => {
    socket.on("error", () => {})
    // The tickets are written after this.
    if (kind === "silent") setImmediate(() => socket.end())
    else socket.once("data", () => socket.end(body))
    socket.resume()
  })
  return listening(server)
}

const ofOpenssl = ({ intermediate, key, own }) => {
  const folder = mkdtempSync(join(tmpdir(), "holdfast-"))
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
  const file = (name, pem) => {
    writeFileSync(join(folder, name), pem)
    return join(folder, name)
  }
  const shown = [
    "-cert",
    file("own.pem", own),
    "-cert_chain",
    file("chain.pem", intermediate),
    "-key",
    file("key.pem", key)
  ]
  const args = ["s_server", "-www", "-accept", "127.0.0.1:0", ...shown, "-num_tickets", "2"]
  const child = spawn("openssl", args, { stdio: ["ignore", "pipe", "ignore"] })
  children.push(child)
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("exit", () => reject(new Error("s_server has ended")))
    createInterface(child.stdout).on("line", (line) => {
      const port = /^ACCEPT .*:(\d+)$/.exec(line)?.[1]
      if (port !== undefined) resolve(Number(port))
    })
  })
}

const relayTo = async (port) => {
  const seen = new Set()
  const open = new Set()
  let report
  const reset = () => {
    report = { connections: 0, resumed: 0, offered: 0, repeated: 0, up: 0, down: 0 }
  }
  reset()
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    const behind = connect({ host: "127.0.0.1", port, allowHalfOpen: true, noDelay: true })
    open.add(client)
    report.connections++
    const hears = firstMessage((tickets) => {
      report.offered += tickets.length
      for (const ticket of tickets) {
        if (seen.has(ticket)) report.repeated++
        seen.add(ticket)
      }
    })
    const answers = firstMessage((taken) => {
      report.resumed += taken.length
    })
    client.on("data", (chunk) => {
      report.up += chunk.length
      hears(chunk)
    })
    behind.on("data", (chunk) => {
      report.down += chunk.length
      answers(chunk)
    })
    client.pipe(behind)
    behind.pipe(client)
    client.on("error", () => behind.destroy())
    behind.on("error", () => client.destroySoon())
    client.on("close", () => {
      open.delete(client)
      behind.destroySoon()
    })
  })
  return {
    port: await listening(server),
    /** Since the last one, when all connections are closed. */
    report: async () => {
      for (let wait = 0; open.size > 0 && wait < 1_000; wait++) await new Promise((resolve) => setTimeout(resolve, 1))
      const last = report
      reset()
      return last
    }
  }
}

const servers = await Promise.all(settings.map(async (setting) => {
  const port = await (setting.kind === "openssl" ? ofOpenssl(setting) : ofNode(setting))
  return { port, relay: await relayTo(port) }
}))
process.on("message", async (index) => process.send(await servers[index].relay.report()))
process.send(servers.map(({ port, relay }) => ({ port, relayPort: relay.port })))
