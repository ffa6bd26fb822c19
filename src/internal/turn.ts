/**
 * A lock that is handed from one holder to the next, in the order in which they asked.
 *
 * It is ours because Effect 3.22's `Semaphore` lets a fiber that comes back overtake those that wait, wakes all of
 * them at each release (so that n waiters cost n² wake-ups), and leaks its permit when a taker is interrupted between
 * taking it and installing its release. Here the turn belongs to its holder from the step in which it is handed on,
 * whatever becomes of the fiber that asked: who ends a holder gives back its turns.
 */
export class Turn<H> {
  holder: H | undefined
  /** The fibers that wait, by the holder they wait for. Made when first one waits. */
  private queue: Map<H, Set<() => void>> | undefined
  private readonly onTaken: (holder: H, turn: Turn<H>) => void

  /** `onTaken` is called in the step in which a holder gets the turn. */
  constructor(onTaken: (holder: H, turn: Turn<H>) => void) {
    this.onTaken = onTaken
  }

  get waiters(): number {
    return this.queue?.size ?? 0
  }

  /** Who has it before `holder`, which waits or is about to, as things stand. */
  *ahead(holder: H): Generator<H> {
    yield this.holder!
    for (const waiting of this.queue?.keys() ?? []) {
      if (waiting === holder) return
      yield waiting
    }
  }

  /** Lets go all who wait, without the turn. */
  dismissAll(): void {
    this.queue?.forEach((_, holder) => this.dismiss(holder))
  }

  /** Whether it is the holder's now. */
  tryTake(holder: H): boolean {
    if (this.holder !== undefined) return this.holder === holder
    this.handTo(holder)
    return true
  }

  /** Calls `wake` when the turn is the holder's, or when it is let go without. Gives what takes the request back. */
  enqueue(holder: H, wake: () => void): () => void {
    const queue = (this.queue ??= new Map())
    const fibers = queue.get(holder) ?? new Set()
    queue.set(holder, fibers.add(wake))
    return () => {
      fibers.delete(wake)
      if (fibers.size === 0 && queue.get(holder) === fibers) queue.delete(holder)
    }
  }

  /** Hands it to the one who has waited longest. */
  release(): void {
    this.holder = undefined
    if (this.queue === undefined) return
    for (const [holder, fibers] of this.queue) {
      this.queue.delete(holder)
      this.handTo(holder)
      for (const wake of fibers) wake()
      return
    }
  }

  /** Lets go the fibers that wait for a holder, without the turn. */
  dismiss(holder: H): void {
    const fibers = this.queue?.get(holder)
    if (fibers === undefined) return
    this.queue?.delete(holder)
    for (const wake of fibers) wake()
  }

  private handTo(holder: H): void {
    this.holder = holder
    this.onTaken(holder, this)
  }
}
