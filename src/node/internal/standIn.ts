/**
 * The socket of a request whose connection may have to be opened twice: first with a ticket and, if the handshake fails
 * because of the ticket, once more without one. `node:https` and its users expect a `TLSSocket` immediately, and the
 * same socket until the end.
 */
import * as Net from "node:net"
import * as Tls from "node:tls"
import type { Listener } from "./handshake.js"

/**
 * Represents the sockets that `handshake` makes one after the other, and finally the open one: reads from it, writes to
 * it, and has its methods and properties. (The socket "beneath" is the socket that the stand-in currently represents.)
 * While the connection is being opened, writes are held back, and a time limit counts from when it was set, whichever
 * socket is beneath.
 *
 * `lookup`, `connect` and `secureConnect` are emitted once each, also if the connection is opened twice.
 */
export class StandIn extends Net.Socket {
  // Properties of `net.Socket`, whose types declare them read-only.
  declare connecting: boolean
  declare timeout: number
  // Properties of a `TLSSocket`, with the values that they have before the handshake.
  readonly encrypted = true
  readonly authorized = false
  readonly authorizationError = null
  readonly alpnProtocol = null
  readonly servername = null
  readonly secureConnecting = true

  #giveUp = (): void => {}
  /** The socket beneath: first one of TCP, then one of TLS. */
  #beneath: Net.Socket | undefined
  #isOpen = false
  #hasEnded = false
  /** The write, or the end, that waits for the connection to open. */
  #held: ((socket: Net.Socket) => void) | undefined
  /** The last call of each method that sets something: repeated for each new socket beneath. */
  readonly #settings = new Map<string, () => void>()

  /** `open` starts to open the connection, reports to the listener, and returns a function that gives it up. */
  constructor(options: Tls.ConnectionOptions, open: (listener: Listener) => () => void) {
    const { allowHalfOpen, highWaterMark } = options as Net.SocketConstructorOpts & { readonly highWaterMark?: number }
    super({ allowHalfOpen, highWaterMark } as Net.SocketConstructorOpts)
    this.connecting = true
    if (options.timeout) this.setTimeout(options.timeout)
    this.#giveUp = open({
      onSocket: (socket) => this.#follow(socket),
      onOpen: (socket) => this.#open(socket),
      onFailure: (_, cause) => this.destroy(cause as Error | undefined)
    })
  }

  // --- the sockets beneath ---------------------------------------------------

  #follow(socket: Net.Socket): void {
    this.#beneath = socket
    for (const repeat of this.#settings.values()) repeat()
    const forward = (...names: ReadonlyArray<string>) => {
      for (const name of names) socket.on(name, (...args) => this.emit(name, ...args))
    }
    if (socket instanceof Tls.TLSSocket) {
      forward("OCSPResponse", "session")
      // OpenSSL reports its keys only if there is a listener.
      if (this.listenerCount("keylog") > 0) forward("keylog")
      else this.on("newListener", (name) => name === "keylog" && socket.listenerCount(name) === 0 && forward(name))
    } else if (this.connecting) {
      forward("connectionAttempt", "connectionAttemptFailed", "connectionAttemptTimeout")
      socket.once("lookup", (...args) => this.emit("lookup", ...args))
      socket.once("connect", () => {
        this.connecting = false
        this.emit("connect")
        this.emit("ready")
      })
    }
  }

  #open(socket: Tls.TLSSocket): void {
    this.#isOpen = true
    const { alpnProtocol, authorizationError, authorized } = socket
    const { servername } = socket as { readonly servername?: unknown }
    Object.assign(this, { alpnProtocol, authorizationError, authorized, servername, secureConnecting: false })
    // TLS over this socket (a proxy's tunnel) needs a handle: without one, TLS would wait for a `connect` event, which
    // has already been emitted. With the open socket as `_parent`, reading and writing through the handle counts as
    // activity of the open socket; otherwise that socket's time limit would end the connection.
    Object.defineProperty(this, "_handle", { get: () => this.destroyed ? null : handleOf(socket), set: () => {} })
    Object.assign(this, { _parent: socket })
    // From now on the open socket counts the time limit. A limit of 0 is passed on as well: it removes the agent's
    // limit.
    const { timeout } = this
    if (timeout !== undefined) {
      super.setTimeout(0)
      this.setTimeout(timeout)
    }
    socket.on("timeout", () => this.emit("timeout"))
    socket.on("data", (chunk) => {
      if (!this.push(chunk)) socket.pause()
    })
    socket.on("end", () => {
      this.#hasEnded = true
      this.push(null)
    })
    socket.on("error", (error) => this.destroy(error))
    // If the end of the data has arrived, this socket closes by itself when everything has been read.
    socket.on("close", () => this.#hasEnded || this.destroy())
    this.emit("secureConnect")
    this.#held?.(socket)
    this.#held = undefined
  }

  // --- the stream ------------------------------------------------------------

  override _read(): void {
    if (this.#isOpen) this.#beneath!.resume()
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#whenOpen(done, (socket) => socket.write(chunk, encoding, done))
  }

  override _writev(
    chunks: Array<{ readonly chunk: Buffer; readonly encoding: BufferEncoding }>,
    done: (error?: Error | null) => void
  ): void {
    this.#whenOpen(done, (socket) => {
      socket.cork()
      chunks.forEach(({ chunk, encoding }, i) =>
        socket.write(chunk, encoding, i === chunks.length - 1 ? done : undefined)
      )
      socket.uncork()
    })
  }

  override _final(done: (error?: Error | null) => void): void {
    // If `end` fails, the open socket emits an error, which destroys this socket.
    this.#whenOpen(done, (socket) => socket.writableFinished ? done() : socket.end(() => done()))
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (this.#isOpen) this.#beneath!.destroy()
    else this.#giveUp()
    this.connecting = false
    done(error)
    // A socket with a handle closes one turn of the event loop after its `error`, and users rely on that turn.
    setImmediate(() => super._destroy(error, () => {}))
  }

  #whenOpen(fail: (error: Error) => void, go: (socket: Net.Socket) => void): void {
    if (this.#isOpen) return go(this.#beneath!)
    // A write fails after the `error` event, as in `net.Socket`: a request would report the write's failure otherwise.
    const onClose = () => fail(closedBeforeOpen())
    this.once("close", onClose)
    this.#held = (socket) => {
      this.off("close", onClose)
      go(socket)
    }
  }

  // --- other methods and properties ------------------------------------------

  override setTimeout(millis: number, listener?: () => void): this {
    if (!this.#isOpen) return super.setTimeout(millis, listener)
    this.#beneath!.setTimeout(millis)
    this.timeout = millis
    if (listener !== undefined) this[millis === 0 ? "off" : "once"]("timeout", listener)
    return this
  }

  static {
    const define = (name: string, descriptor: PropertyDescriptor) =>
      Object.defineProperty(this.prototype, name, { configurable: true, ...descriptor })
    const method = (name: string, value: (this: StandIn, ...args: Array<unknown>) => unknown) =>
      define(name, { writable: true, value })

    define("pending", {
      get(this: StandIn) {
        return this.connecting
      }
    })
    for (const name of ["bytesRead", "bytesWritten", "bufferSize"]) this.#readsBeneath(define, name)
    for (const side of ["local", "remote"]) {
      for (const what of ["Address", "Family", "Port"]) this.#readsBeneath(define, side + what)
    }
    for (const name of ["ref", "unref", "setNoDelay", "setKeepAlive"]) {
      method(name, function(...args) {
        const repeat = () => void call(this.#beneath, name, args)
        this.#settings.set(name === "unref" ? "ref" : name, repeat)
        repeat()
        return this
      })
    }
    // The stand-in is an `instanceof TLSSocket`, and has every method of this version of Node.
    const { prototype } = Tls.TLSSocket
    Object.setPrototypeOf(this.prototype, prototype)
    for (const name of ["address", ...Object.getOwnPropertyNames(prototype)]) {
      // A tool that watches an application may have given TLS sockets an `emit` of their own. A stand-in has its own.
      if (name.startsWith("_") || (name !== "address" && name in Net.Socket.prototype)) continue
      if (typeof Reflect.get(prototype, name) !== "function") continue
      method(name, function(...args) {
        const isThere = name in (this.#beneath ?? {})
        return isThere ? call(this.#beneath, name, args) : Reflect.apply(Reflect.get(prototype, name), this, args)
      })
    }
  }

  static #readsBeneath(define: (name: string, descriptor: PropertyDescriptor) => void, name: string): void {
    define(name, {
      get(this: StandIn) {
        return Reflect.get(this.#beneath ?? Net.Socket.prototype, name, this.#beneath ?? this)
      }
    })
  }
}

const call = (socket: Net.Socket | undefined, name: string, args: ReadonlyArray<unknown>): unknown =>
  socket && Reflect.apply(Reflect.get(socket, name) as () => unknown, socket, args)

/** Node's error for a write on a socket that closes before it is connected. */
const closedBeforeOpen = (): Error =>
  Object.assign(new Error("Socket closed before the connection was established"), {
    code: "ERR_SOCKET_CLOSED_BEFORE_CONNECTION"
  })

const handleOf = (socket: Net.Socket): object | null =>
  (socket as unknown as { readonly _handle: object | null })._handle
