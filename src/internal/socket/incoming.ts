/**
 * The messages of a connection, kept until there is a listener, and passed on in order from then on. A connection ends
 * once: later reports of the platform are ignored.
 */
import { Waiters } from "../waiters.js"

interface Listener<in Message, in End> {
  readonly onMessage: (message: Message) => void
  readonly onControl: (frame?: "Ping" | "Pong") => void
  readonly onEnd: (end: End) => void
}

export class Incoming<in out Message, in out End> {
  private listener: Listener<Message, End> | undefined
  private early: Array<(listener: Listener<Message, End>) => void> = []
  private readonly whenEnded = new Waiters()
  end: End | undefined

  message(message: Message): void {
    if (this.end === undefined) this.pass((listener) => listener.onMessage(message))
  }

  control(frame: "Ping" | "Pong"): void {
    if (this.end === undefined) this.pass((listener) => listener.onControl(frame))
  }

  endWith(end: End): void {
    if (this.end !== undefined) return
    this.end = end
    try {
      this.pass((listener) => listener.onEnd(end))
    } finally {
      this.whenEnded.notify()
    }
  }

  listen(listener: Listener<Message, End>): void {
    for (const pass of this.early) pass(listener)
    this.early = []
    this.listener = listener
  }

  /**
   * Calls `then` when the connection ends, or immediately if it has ended. Returns a function that cancels the call.
   */
  onceEnded(then: (end: End) => void): () => void {
    return Waiters.watch(() => this.end, then, this.whenEnded)
  }

  private pass(f: (listener: Listener<Message, End>) => void): void {
    if (this.listener === undefined) this.early.push(f)
    else f(this.listener)
  }
}
