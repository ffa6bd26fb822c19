/** A measurement that a contender takes part in. */
export type Part = "echo" | "heap" | "recovery" | "losses" | "pour"

/** One way of holding a WebSocket. */
export interface Contender {
  readonly name: string
  readonly parts: ReadonlyArray<Part>
  /** Whether the server must acknowledge the messages that it has taken. */
  readonly isAcknowledged?: true
  /** Gives an open client; `heard` gets the messages that come in while no echo is measured. */
  readonly open: (url: string, heard: (message: string) => void) => Promise<Client>
}

export interface Client {
  /** Sends one message; while there is no connection, the client may queue or lose it. */
  readonly send: (message: string) => void
  /**
   * Sends all messages as fast as the client takes them. If the client knows when the server has them, the promise
   * waits for that.
   */
  readonly pour: (messages: ReadonlyArray<string>) => Promise<void> | void
  readonly echo: Echo
  readonly close: () => Promise<void>
}

/**
 * Sends `message` `total` times, first `window` of them and then one for each echo, and ends when all echoes have come
 * back unchanged.
 */
export type Echo = (message: string, total: number, window: number, onEcho?: () => void) => Promise<void>

/** All contenders that dial again wait equally long. */
export const redialMillis = 100

/** The measurements of all contenders that dial again. */
export const everything: ReadonlyArray<Part> = ["echo", "heap", "recovery", "losses"]

/**
 * The state of one `Echo`. A client that gives it each incoming message, and sends as many messages as it asks for,
 * keeps the rules.
 */
export class Window {
  private sent: number
  private received = 0
  readonly message: string
  readonly first: number
  private readonly total: number
  private readonly onEcho: (() => void) | undefined

  constructor(message: string, total: number, window: number, onEcho?: () => void) {
    this.message = message
    this.total = total
    this.onEcho = onEcho
    this.first = this.sent = Math.min(window, total)
  }

  /** Whether another message must be sent for this echo. */
  took(echo: unknown): boolean {
    if (echo !== this.message) throw new Error("what came back is not what was sent")
    this.received++
    this.onEcho?.()
    if (this.sent === this.total) return false
    this.sent++
    return true
  }

  get isOver(): boolean {
    return this.received === this.total
  }
}

interface Callbacks {
  readonly send: (message: string) => void
  readonly close: () => Promise<void>
}

/** A contender whose client sends by a call, and gives incoming messages to a callback. */
export const overCallbacks =
  (open: (url: string, onMessage: (message: string) => void) => Promise<Callbacks>): Contender["open"] =>
  async (url, heard) => {
    let take = heard
    const { close, send } = await open(url, (message) => take(message))
    return {
      send,
      close,
      pour: (messages) => messages.forEach((message) => send(message)),
      echo: (message, total, window, onEcho) =>
        new Promise((resolve, reject) => {
          const echoes = new Window(message, total, window, onEcho)
          take = (echo) => {
            try {
              if (echoes.took(echo)) send(message)
            } catch (error) {
              reject(error)
            }
            if (echoes.isOver) {
              take = heard
              resolve()
            }
          }
          for (let sent = 0; sent < echoes.first; sent++) send(message)
        })
    }
  }
