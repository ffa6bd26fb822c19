/** A measurement that a contender takes part in. */
export type Part = "echo" | "heap" | "recovery" | "losses" | "pour"

/** One way of holding a WebSocket. */
export interface Contender {
  readonly name: string
  readonly parts: ReadonlyArray<Part>
  /** Wants to be told what the server has taken. */
  readonly isAcknowledged?: true
  /** Gives a client that is open; `heard` is told what comes in while no echo is measured. */
  readonly open: (url: string, heard: (message: string) => void) => Promise<Client>
}

export interface Client {
  /** Sends one message, or keeps it, or loses it: as it does when it is down. */
  readonly send: (message: string) => void
  /** Sends all of them as fast as it takes them. Who knows when the server has them, promises it. */
  readonly pour: (messages: ReadonlyArray<string>) => Promise<void> | void
  readonly echo: Echo
  readonly close: () => Promise<void>
}

/**
 * Sends `message` as often as `total` says, `window` of them at once and then one for each that comes back, and ends
 * when all have come back as they were sent.
 */
export type Echo = (message: string, total: number, window: number, onEcho?: () => void) => Promise<void>

/** All that dial again wait for as long. */
export const redialMillis = 100

/** What all that dial again are measured in. */
export const everything: ReadonlyArray<Part> = ["echo", "heap", "recovery", "losses"]

/** The state of one `Echo`: who takes what comes in, and sends as many as it says, keeps its rules. */
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

  /** Whether another is to be sent for this one. */
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

/** The client of what is given each message by a call and gives each by a callback. */
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
