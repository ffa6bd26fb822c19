/**
 * Node's `https.Agent`, whose connections come from elsewhere, and come late: when their handshake is over.
 */
import * as Either from "effect/Either"
import type * as Http from "node:http"
import * as Https from "node:https"
import * as Net from "node:net"
import type { Duplex } from "node:stream"
import type * as Tls from "node:tls"

/** Opens a connection, and gives what gives it up. */
export type Open = (
  options: Tls.ConnectionOptions,
  callback: (outcome: Either.Either<Tls.TLSSocket, Error>) => void
) => () => void

/** What `https.Agent` does not tell its types. */
interface Pool {
  sockets: { [name: string]: Array<Net.Socket> | undefined }
  requests: { [name: string]: Array<Http.ClientRequest> | undefined }
  totalSocketCount: number
  createSocket(request: Http.ClientRequest, options: object, callback: () => void): void
}

export class TicketAgent extends Https.Agent {
  private readonly open: Open
  /** Whom the connection is for that is to be created next. */
  private request: Http.ClientRequest | undefined

  constructor(options: Https.AgentOptions, open: Open) {
    super(options)
    this.open = open
  }

  createSocket(...args: Parameters<Pool["createSocket"]>): void {
    this.request = args[0]
    ;(Https.Agent.prototype as unknown as Pool).createSocket.apply(this, args)
  }

  /**
   * The socket comes with the end of the handshake. Until then another stands for it, by which the agent counts
   * (`maxSockets`), and through which it, and the request, give it up; where the handshake fails, it is the one that
   * fails. So those that wait for a socket, and whoever listens for errors, see what they see with Node's own agent.
   */
  override createConnection(
    options: Https.RequestOptions,
    callback?: (error: Error | null, socket: Duplex) => void
  ): Duplex | null | undefined {
    if (callback === undefined) return super.createConnection(options)
    const pool = this as unknown as Pool
    const name = this.getName(options)
    const request = this.request
    this.request = undefined

    const standIn = new StandIn()
    ;(pool.sockets[name] ??= []).push(standIn)
    pool.totalSocketCount++
    // Node leaves a queued request that it dials for in its queue, which would have others dial for it as well.
    const queue = pool.requests[name] ?? []
    const isQueued = request !== undefined && queue.includes(request)
    if (isQueued) {
      queue.splice(queue.indexOf(request), 1)
      if (queue.length === 0) delete pool.requests[name]
    }

    const handOver = (socket: Net.Socket): void => {
      standIn.onDestroy = undefined
      standIn.setTimeout(0)
      if (request !== undefined) delete (request as Partial<Http.ClientRequest>).destroy
      if (isQueued) (pool.requests[name] ??= []).unshift(request)
      if (socket !== standIn) request?.prependOnceListener("socket", announce)
      callback(null, socket)
      // It has been counted by now, be it the one that stood in.
      const sockets = pool.sockets[name] ?? []
      const at = sockets.lastIndexOf(standIn)
      if (at >= 0) sockets.splice(at, 1)
      if (sockets.length === 0) delete pool.sockets[name]
      pool.totalSocketCount--
    }
    let giveUp = () => {}
    standIn.onDestroy = () => {
      handOver(standIn)
      giveUp()
    }
    if (request !== undefined) {
      request.destroy = (error) => {
        delete (request as Partial<Http.ClientRequest>).destroy
        request.destroy(error)
        standIn.destroy(error)
        return request
      }
      if (options.timeout) standIn.setTimeout(options.timeout, () => request.emit("timeout"))
    }
    giveUp = this.open(
      options as Tls.ConnectionOptions,
      Either.match({
        onLeft: (error) => {
          if (standIn.onDestroy === undefined) return
          handOver(standIn)
          standIn.destroy(error)
        },
        onRight: (socket) => {
          if (standIn.onDestroy === undefined) socket.destroy()
          else handOver(socket)
        }
      })
    )
    return undefined
  }
}

/**
 * Whoever gets a socket with its request listens for `secureConnect`, to look at the certificate before anything is
 * sent. It comes once more for them.
 */
const announce = (socket: Net.Socket): void => {
  socket.cork()
  process.nextTick(() => {
    socket.emit("secureConnect")
    socket.uncork()
  })
}

/** A socket that is never connected. */
class StandIn extends Net.Socket {
  onDestroy: (() => void) | undefined

  override destroy(error?: Error): this {
    this.onDestroy?.()
    return super.destroy(error)
  }
}
