/**
 * The socket of a request whose connection may have to be opened twice: once with a ticket, and, if the server breaks
 * off because of it, once more without. `node:https` and its users expect a `TLSSocket` immediately, and the same one
 * until the end.
 */
import * as Net from "node:net"
import * as Tls from "node:tls"
import type { Listener } from "./handshake.js"

/**
 * Stands for the sockets that `handshake` makes, one after the other, and then for the one that is open: reads from it,
 * writes to it, and has its methods and properties. While the connection is being opened, writes are held back, and a
 * time limit counts from when it is set, whatever happens beneath.
 *
 * `lookup`, `connect` and `secureConnect` come once each, also if the connection is opened twice.
 */
export class StandIn extends Net.Socket {
  // Of `net.Socket`, where it is read-only to all but Node.
  declare connecting: boolean
  declare timeout: number
  // Of a `TLSSocket`, as they are before the handshake.
  readonly encrypted = true
  readonly authorized = false
  readonly authorizationError = null
  readonly alpnProtocol = null
  readonly servername = null
  readonly secureConnecting = true

  #giveUp = (): void => {}
  /** The socket beneath: TCP first, then TLS. */
  #beneath: Net.Socket | undefined
  #isOpen = false
  #hasEnded = false
  /** The write, or the end, that waits for the connection to open. */
  #held: ((socket: Net.Socket) => void) | undefined
  /** Calls that are repeated for each socket beneath. */
  readonly #settings = new Map<string, () => void>()

  /** `open` opens the connection, tells the listener of it, and returns what gives it up. */
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
      // OpenSSL tells the keys only if somebody listens.
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
    // TLS over a socket without a handle would wait for a `connect` that has come already. Activity on the handle is
    // the open socket's, too, whose time limit would end the connection otherwise.
    Object.defineProperty(this, "_handle", { get: () => this.destroyed ? null : handleOf(socket), set: () => {} })
    Object.assign(this, { _parent: socket })
    // From now on the open socket knows when nothing happens. A limit of 0 is told, too: it switches the agent's off.
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
    // After its end, this socket closes when its reader has everything.
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
    // An error of the open socket comes as such.
    this.#whenOpen(done, (socket) => socket.writableFinished ? done() : socket.end(() => done()))
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (this.#isOpen) this.#beneath!.destroy()
    else this.#giveUp()
    this.connecting = false
    done(error)
    // A socket that has a handle closes a turn of the event loop after its `error`, and users rely on the time between.
    setImmediate(() => super._destroy(error, () => {}))
  }

  #whenOpen(fail: (error: Error) => void, go: (socket: Net.Socket) => void): void {
    if (this.#isOpen) return go(this.#beneath!)
    // Like in `net.Socket`, a write fails after the `error` event: a request takes the callback for its last word.
    const onClose = () => fail(closedBeforeOpen())
    this.once("close", onClose)
    this.#held = (socket) => {
      this.off("close", onClose)
      go(socket)
    }
  }

  // --- what else a socket has ------------------------------------------------

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
    // The stand-in is a `TLSSocket` to those who ask, with every method that this version of Node has.
    const { prototype } = Tls.TLSSocket
    Object.setPrototypeOf(this.prototype, prototype)
    for (const name of ["address", ...Object.getOwnPropertyNames(prototype)]) {
      if (name === "constructor" || name.startsWith("_") || typeof Reflect.get(prototype, name) !== "function") continue
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
