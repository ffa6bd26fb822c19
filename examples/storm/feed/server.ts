/**
 * The feed: a WebSocket server that requires a bearer token, numbers its messages of each topic, and acknowledges a
 * client's message when it is in the journal. It runs in its own process, which is killed and started again. It imports
 * little, so that it starts quickly.
 */
import { once } from "node:events"
import { createServer, type IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import type { Duplex } from "node:stream"
import { type WebSocket, WebSocketServer } from "ws"
import { answerWith } from "../answering.js"
import * as Journal from "./journal.js"
import type { FromClient, FromServer } from "./messages.js"
import { Numbers } from "./numbers.js"

export interface Settings {
  readonly authorizationPort: number
  readonly introspectionSecret: string
  /** The journal's path. */
  readonly journal: string
  /** How many subscriptions each client has at least. */
  readonly subscriptions: number
}

const millisPerTick = 100
const millisPerLookAtTokens = 250

// --- tokens ------------------------------------------------------------------

type IsActive = (token: string) => Promise<boolean>

const introspection = ({ authorizationPort, introspectionSecret }: Settings): IsActive => async (token) => {
  const response = await fetch(`http://127.0.0.1:${authorizationPort}/token/introspection`, {
    method: "POST",
    headers: { authorization: `Basic ${Buffer.from(`api:${introspectionSecret}`).toString("base64")}` },
    body: new URLSearchParams({ token, token_type_hint: "access_token" }),
    signal: AbortSignal.timeout(5000)
  })
  if (!response.ok) throw new Error(`the authorization server answered ${response.status}`)
  return (await response.json() as { readonly active: boolean }).active
}

/** A token may be revoked while its connection is open. */
const dismissDead = async (isActive: IsActive): Promise<void> => {
  const tokens = new Set([...open].map(({ token }) => token))
  await Promise.all([...tokens].map(async (token) => {
    if (await isActive(token)) return
    for (const connection of open) {
      if (connection.token === token) connection.close(4401)
    }
  }))
}

// --- connections -------------------------------------------------------------

interface Connection {
  readonly client: string
  readonly token: string
  readonly topics: Set<string>
  readonly send: (message: FromServer) => void
  /** Says whether the subscription was open. */
  readonly close: (code: number) => boolean
}

const open = new Set<Connection>()

let isOverloaded = false

const serve = (socket: WebSocket, { client, token }: Upgrade, books: Books): void => {
  const { has, note, settings } = books
  const numbers = has(client)
  const topics = new Set<string>()
  const send = (message: FromServer) => {
    if (socket.readyState === socket.OPEN) socket.send(JSON.stringify(message))
  }
  let hasSpoken = false
  let owesAcknowledgement = false

  // One acknowledgement for all messages that came together.
  const acknowledgeSoon = () => {
    if (owesAcknowledgement) return
    owesAcknowledgement = true
    setImmediate(() => {
      owesAcknowledgement = false
      send({ acknowledged: numbers.upTo })
    })
  }

  const hear = (message: FromClient) => {
    if ("subscribe" in message) {
      topics.add(message.subscribe)
      send({ subscribed: message.subscribe })
    } else if ("unsubscribe" in message) {
      topics.delete(message.unsubscribe)
    } else {
      if (!hasSpoken) note(["spoke", client, topics.size >= settings.subscriptions])
      hasSpoken = true
      note([numbers.add(message.number) ? "accepted" : "repeated", client, message.number])
      acknowledgeSoon()
    }
  }

  const connection: Connection = {
    client,
    token,
    topics,
    send,
    close: (code) => {
      if (socket.readyState !== socket.OPEN) return false
      note(["closed", code])
      // 1005 cannot be sent: it means that there was no code.
      if (code === 1005) socket.close()
      else socket.close(code)
      return true
    }
  }
  open.add(connection)
  note(["opened", client])
  socket.on("message", (data) => {
    // Messages after our close frame are ignored, and so not acknowledged.
    if (socket.readyState === socket.OPEN) hear(JSON.parse(String(data)) as FromClient)
  })
  // Followed by `close`.
  socket.on("error", () => {})
  socket.on("close", () => open.delete(connection))
}

/** The state that one server leaves to the next. */
interface Books {
  readonly settings: Settings
  readonly note: (entry: Journal.Entry) => void
  readonly has: (client: string) => Numbers
}

const openBooks = (settings: Settings): Books => {
  const note = Journal.append(settings.journal)
  const clients = new Map<string, Numbers>()
  const has = (client: string) => {
    const numbers = clients.get(client) ?? new Numbers()
    clients.set(client, numbers)
    return numbers
  }
  for (const entry of Journal.read(settings.journal)) {
    if (entry[0] === "accepted") has(entry[1]).add(entry[2])
  }
  return { settings, note, has }
}

// --- the server --------------------------------------------------------------

interface Upgrade {
  readonly client: string
  readonly token: string
}

const listen = async (settings: Settings): Promise<number> => {
  const books = openBooks(settings)
  const isActive = introspection(settings)
  const upgrades = new WebSocketServer({ noServer: true })
  const server = createServer()

  server.on("upgrade", (request: IncomingMessage, transport: Duplex, head: Buffer) => {
    const refuse = (status: number, reason: string) => {
      books.note(["refused", status])
      transport.end(`HTTP/1.1 ${status} ${reason}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    }
    transport.on("error", () => {})
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1]
    const client = new URL(request.url!, "http://feed").searchParams.get("client")
    if (isOverloaded) return refuse(503, "Service Unavailable")
    if (client === null) return refuse(400, "Bad Request")
    if (token === undefined) return refuse(401, "Unauthorized")
    isActive(token).then(
      (isActive) =>
        isActive
          ? upgrades.handleUpgrade(request, transport, head, (socket) => serve(socket, { client, token }, books))
          : refuse(401, "Unauthorized"),
      () => refuse(503, "Service Unavailable")
    )
  })

  // Begins with the time: a successor, which does not know these numbers, must continue with higher ones.
  let tick = Date.now()
  setInterval(() => {
    tick++
    for (const { send, topics } of open) {
      for (const topic of topics) send({ topic, number: tick })
    }
  }, millisPerTick)
  // The check of a token that fails now can succeed in a moment.
  setInterval(() => void dismissDead(isActive).catch(() => {}), millisPerLookAtTokens)

  await once(server.listen(0, "127.0.0.1"), "listening")
  return (server.address() as AddressInfo).port
}

const questions = answerWith({
  /** Gives the port. */
  listen,
  /** Closes the client's connections, and says whether there were any. */
  close: ({ client, code }: { readonly client: string; readonly code: number }): boolean =>
    [...open].filter((connection) => connection.client === client && connection.close(code)).length > 0,
  /** Asks all clients to try again later, and refuses clients for the given time. Gives whether there were any. */
  overload: (millis: number): boolean => {
    if ([...open].filter((connection) => connection.close(1013)).length === 0) return false
    isOverloaded = true
    setTimeout(() => {
      isOverloaded = false
    }, millis)
    return true
  },
  /** The topics of each client that is connected. */
  subscriptions: (): Readonly<Record<string, ReadonlyArray<string>>> =>
    Object.fromEntries([...open].map(({ client, topics }) => [client, [...topics].sort()]))
})

export type FeedServer = typeof questions
