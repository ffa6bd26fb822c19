/**
 * A TLS server in its own process, bundled and started by `tlsServers.ts`: Node's, or the `openssl` command line's,
 * which this process starts, reads from, and ends together with itself.
 *
 * Node (20 and 24) runs it as bundled by esbuild.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as Http from "node:http"
import * as Http2 from "node:http2"
import type { AddressInfo, Socket } from "node:net"
import { createInterface } from "node:readline"
import * as Tls from "node:tls"
import { WebSocketServer } from "ws"

/** The options of `tls.createServer` that JSON can hold; keys are in base64. */
export interface NodeSettings extends
  Pick<
    Tls.TlsOptions,
    | "ALPNProtocols"
    | "ciphers"
    | "ecdhCurve"
    | "maxVersion"
    | "minVersion"
    | "rejectUnauthorized"
    | "requestCert"
    | "secureOptions"
    | "sessionTimeout"
  >
{
  readonly kind: "node"
  readonly key: string
  readonly cert: string
  readonly ca?: string | undefined
  readonly ticketKeys?: string | undefined
  readonly sessionIdContext: string
}

export interface OpensslSettings {
  readonly kind: "openssl"
  /** Without `-accept`. */
  readonly args: ReadonlyArray<string>
}

export type Settings = NodeSettings | OpensslSettings

export interface Handshakes {
  /** How many handshakes of each kind the server has completed. */
  readonly full: number
  readonly resumed: number
}

export interface Report extends Handshakes {
  /** All open TCP connections. */
  readonly open: number
  /** Why handshakes have failed: the codes of errors that have one. */
  readonly errors: ReadonlyArray<string>
}

/** Every request is answered with the report, when the request is done. */
export type Command =
  | { readonly _tag: "Report" }
  | { readonly _tag: "SetTicketKeys"; readonly ticketKeys: string }
  | { readonly _tag: "Swap"; readonly key: string; readonly cert: string; readonly keepsTicketKeys: boolean }
  | { readonly _tag: "CloseConnections" }

/** The HTTP answer, and what is known about its connection. */
export interface Seen {
  /** For a connection that is resumed in TLS 1.2 Node's server knows no name; the recorder knows the requested one. */
  readonly servername: string | null
  readonly reused: boolean
  /** The common name of the client's certificate. */
  readonly client: string | null
  readonly alpn: string | null
  readonly protocol: string | null
}

interface Server {
  readonly port: number
  readonly run: (command: Command) => Promise<Handshakes>
}

/** Called when the tests end this process, or have ended without doing so. */
let end = (): void => process.exit()
process.on("disconnect", () => end())

/**
 * A port outside the range of outgoing connections, since a client that dials a port of that range may be connected to
 * itself.
 */
const anyPort = (): number => 15_000 + Math.floor(Math.random() * 17_000)

const nodeServer = async (settings: NodeSettings): Promise<Server> => {
  const { kind: _, ticketKeys, ...options } = settings
  const sockets = new Set<Socket>()
  const secured = new Set<Tls.TLSSocket>()
  const errors: Array<string> = []
  let [full, resumed] = [0, 0]

  const answer = (
    request: Http.IncomingMessage | Http2.Http2ServerRequest,
    response: Http.ServerResponse | Http2.Http2ServerResponse
  ): void => {
    const socket = request.socket as Tls.TLSSocket
    const subject = socket.getPeerCertificate().subject as Tls.Certificate | undefined
    const seen: Seen = {
      servername: (socket as { readonly servername?: string | false }).servername || null,
      reused: socket.isSessionReused(),
      client: [subject?.CN].flat()[0] ?? null,
      alpn: socket.alpnProtocol || null,
      protocol: socket.getProtocol()
    }
    response.statusCode = 200
    response.setHeader("content-type", "application/json")
    response.end(JSON.stringify(seen))
  }

  // Idle connections end only when a test says so.
  const http = Http.createServer({ keepAliveTimeout: 600_000 }, answer)
  const http2 = Http2.createServer(answer)
  const webSockets = new WebSocketServer({ noServer: true })
  http.on("upgrade", (request: Http.IncomingMessage, socket: Socket, head: Buffer) => {
    webSockets.handleUpgrade(request, socket, head, (connection) => {
      connection.on("error", () => {})
      connection.on("message", (data: Buffer, isBinary) => connection.send(data, { binary: isBinary }))
    })
  })

  // Neither `https` nor `http2.createSecureServer`, which override the ALPN settings.
  const server = Tls.createServer({
    ALPNProtocols: ["http/1.1"],
    ...options,
    ...(ticketKeys === undefined ? {} : { ticketKeys: Buffer.from(ticketKeys, "base64") })
  })
  server.on("connection", (socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
  })
  server.on("secureConnection", (socket) => {
    if (socket.isSessionReused()) resumed++
    else full++
    secured.add(socket)
    socket.on("error", () => {})
    socket.on("close", () => secured.delete(socket))
    const by = socket.alpnProtocol === "h2" ? http2 : http
    by.emit("connection", socket)
  })
  server.on("tlsClientError", (error: NodeJS.ErrnoException) => {
    if (errors.length < 1000) errors.push(error.code ?? error.message)
  })

  const report = (): Report => ({ full, resumed, open: sockets.size, errors })

  const run = async (command: Command): Promise<Report> => {
    switch (command._tag) {
      case "Report":
        return report()
      case "SetTicketKeys":
        server.setTicketKeys(Buffer.from(command.ticketKeys, "base64"))
        return report()
      case "Swap": {
        // A new context has new ticket keys unless it is given the old ones.
        const ticketKeys = command.keepsTicketKeys ? server.getTicketKeys() : randomBytes(48)
        server.setSecureContext({ ...options, key: command.key, cert: command.cert, ticketKeys })
        return report()
      }
      case "CloseConnections": {
        const closed = [...sockets].map((socket) => new Promise((resolve) => socket.once("close", resolve)))
        // With a `close_notify`, like a server that ends an idle connection.
        for (const socket of secured) socket.destroySoon()
        const late = setTimeout(() => {
          for (const socket of sockets) socket.destroy()
        }, 100)
        await Promise.all(closed)
        clearTimeout(late)
        return report()
      }
    }
  }

  for (;;) {
    const isListening = await new Promise<boolean>((resolve, reject) => {
      const onError = (error: NodeJS.ErrnoException) => error.code === "EADDRINUSE" ? resolve(false) : reject(error)
      server.once("error", onError)
      server.listen(anyPort(), "127.0.0.1", () => {
        server.off("error", onError)
        resolve(true)
      })
    })
    if (isListening) return { port: (server.address() as AddressInfo).port, run }
  }
}

/**
 * The output has, because of `-msg`, all sent and received messages. A handshake has ended with the client's
 * `Finished`, and was a full one if the server has sent its certificate.
 */
const opensslServer = async (settings: OpensslSettings): Promise<Server> => {
  let [full, resumed] = [0, 0]
  let [hasSentCertificate, isHandshake] = [false, false]
  let said = ""

  const onLine = (line: string): void => {
    if (/^<<< .*, ClientHello$/.test(line)) {
      isHandshake = true
      hasSentCertificate = false
    } else if (/^>>> .*, Certificate$/.test(line)) {
      hasSentCertificate = true
    } else if (isHandshake && /^<<< .*, Finished$/.test(line)) {
      isHandshake = false
      if (hasSentCertificate) full++
      else resumed++
    }
  }

  const start = (port: number): Promise<ChildProcess | undefined> =>
    new Promise((resolve) => {
      const own = spawn("openssl", ["s_server", "-accept", `127.0.0.1:${port}`, "-msg", ...settings.args], {
        stdio: ["ignore", "pipe", "pipe"]
      })
      end = () => {
        own.on("exit", () => process.exit())
        own.kill("SIGKILL")
      }
      own.on("error", (error) => {
        said = String(error)
        resolve(undefined)
      })
      own.on("close", () => resolve(undefined))
      own.stderr.on("data", (chunk: Buffer) => {
        said = (said + chunk.toString()).slice(-2000)
      })
      createInterface(own.stdout).on("line", (line) => {
        if (line.startsWith("ACCEPT")) resolve(own)
        onLine(line)
      })
    })

  const run = async (command: Command): Promise<Handshakes> => {
    if (command._tag !== "Report") throw new Error(`${command._tag}: not of the openssl command line's server`)
    // Output that was written before the client was served may still be in the pipe.
    await new Promise((resolve) => setTimeout(resolve, 5))
    return { full, resumed }
  }

  // The server also ends if the port is taken, and then another port helps.
  for (let attempt = 0; attempt < 5; attempt++) {
    const port = anyPort()
    const child = await start(port)
    if (child !== undefined) {
      child.on("exit", () => process.exit(1))
      return { port, run }
    }
  }
  throw new Error(`openssl s_server does not start: ${said}`)
}

const main = async (): Promise<void> => {
  const settings = JSON.parse(process.argv[2]!) as Settings
  const { port, run } = await (settings.kind === "node" ? nodeServer(settings) : opensslServer(settings))
  process.on("message", ({ command, id }: { readonly id: number; readonly command: Command }) => {
    run(command).then(
      (report) => process.send!({ id, report }),
      (error: unknown) => process.send!({ id, error: String(error) })
    )
  })
  process.send!({ port })
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`)
  process.exit(1)
})
