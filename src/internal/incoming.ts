/**
 * What comes in on a connection, kept until somebody listens, and told in order from then on. It ends once: what a
 * platform reports after that is not told.
 */
interface Listener<in Message, in End> {
  readonly onMessage: (message: Message) => void
  readonly onControl: () => void
  readonly onEnd: (end: End) => void
}

export class Incoming<in out Message, in out End> {
  private listener: Listener<Message, End> | undefined
  private early: Array<(listener: Listener<Message, End>) => void> = []
  private readonly waiting = new Set<() => void>()
  end: End | undefined

  message(message: Message): void {
    this.tell((listener) => listener.onMessage(message))
  }

  control(): void {
    this.tell((listener) => listener.onControl())
  }

  over(end: End): void {
    if (this.end !== undefined) return
    this.tell((listener) => listener.onEnd(end))
    this.end = end
    for (const wake of this.waiting) wake()
    this.waiting.clear()
  }

  listen(listener: Listener<Message, End>): void {
    for (const tell of this.early) tell(listener)
    this.early = []
    this.listener = listener
  }

  /** Calls back at the end, at once if that has been. Gives what takes the request back. */
  onOver(wake: () => void): () => void {
    if (this.end === undefined) this.waiting.add(wake)
    else wake()
    return () => {
      this.waiting.delete(wake)
    }
  }

  private tell(f: (listener: Listener<Message, End>) => void): void {
    if (this.end !== undefined) return
    if (this.listener === undefined) this.early.push(f)
    else f(this.listener)
  }
}
