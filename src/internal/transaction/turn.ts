/**
 * A lock that is handed from one holder to the next, in the order of their requests.
 *
 * Effect 3.22's `Semaphore` is not enough: it lets a fiber that comes back overtake waiting fibers, wakes all of them
 * at each release (so that n waiters cost n² wake-ups), and leaks its permit if a taker is interrupted between taking
 * it and installing its release. Here the turn belongs to its holder from the step in which it is handed over, whatever
 * happens to the fiber that asked: the holder's end releases its turns.
 */
export class Turn<H extends Holder<H>> {
  /** The turn's name in errors. */
  readonly name: string
  holder: H | undefined
  /** The holder's next turn (a linked list). */
  next: Turn<H> | undefined
  /** The queue, a doubly linked list, so that a place's neighbours are found immediately, however long the queue is. */
  first: Place<H> | undefined
  last: Place<H> | undefined
  /** The number of places in the queue. */
  waiters = 0

  constructor(name: string) {
    this.name = name
  }

  /** Takes the turn if it is free. Returns whether the holder has it now. */
  tryTake(holder: H): boolean {
    if (this.holder !== undefined) return this.holder === holder
    this.handTo(holder)
    return true
  }

  /**
   * Takes a place in the queue. Calls `wake` when the holder has the turn, or is dismissed without it. Returns a
   * function that withdraws the request.
   */
  enqueue(holder: H, wake: () => void): () => void {
    const place = holder.places?.get(this) ?? this.append(holder)
    place.wakes.add(wake)
    return () => {
      if (place.wakes.delete(wake) && place.wakes.size === 0) this.remove(place)
    }
  }

  /** Hands the turn to the holder that has waited longest. */
  release(): void {
    const place = this.first
    if (place === undefined) {
      this.holder = undefined
    } else {
      this.remove(place)
      this.handTo(place.holder)
      wakeAll(place)
    }
  }

  /** Wakes the fibers that wait for the turn of a holder, which leaves the queue without it. */
  dismiss(holder: H): void {
    const place = holder.places?.get(this)
    if (place === undefined) return
    this.remove(place)
    wakeAll(place)
  }

  /** Wakes all fibers that wait, and empties the queue. */
  dismissAll(): void {
    while (this.first !== undefined) this.dismiss(this.first.holder)
  }

  private handTo(holder: H): void {
    this.holder = holder
    this.next = holder.turn
    holder.turn = this
  }

  private append(holder: H): Place<H> {
    const place: Place<H> = { turn: this, holder, wakes: new Set(), ahead: this.last, behind: undefined }
    if (this.last === undefined) this.first = place
    else this.last.behind = place
    this.last = place
    this.waiters++
    holder.places ??= new Map()
    holder.places.set(this, place)
    return place
  }

  private remove(place: Place<H>): void {
    const { ahead, behind, holder } = place
    if (ahead === undefined) this.first = behind
    else ahead.behind = behind
    if (behind === undefined) this.last = ahead
    else behind.ahead = ahead
    this.waiters--
    holder.places!.delete(this)
  }
}

/** A holder of turns: it knows its turns, and its places in the queues of other turns. */
export interface Holder<H extends Holder<H>> {
  /** The turn that the holder took last, which links to its other turns. */
  turn: Turn<H> | undefined
  /** Made when the holder first waits. */
  places: Map<Turn<H>, Place<H>> | undefined
}

/** Releases all turns that a holder has. */
export const releaseAll = <H extends Holder<H>>(holder: H): void => {
  let { turn } = holder
  holder.turn = undefined
  while (turn !== undefined) {
    const { next } = turn
    turn.next = undefined
    turn.release()
    turn = next
  }
}

/** A holder's place in the queue of a turn. Several of its fibers may wait there. */
export interface Place<H extends Holder<H>> {
  readonly turn: Turn<H>
  readonly holder: H
  readonly wakes: Set<() => void>
  ahead: Place<H> | undefined
  behind: Place<H> | undefined
}

const wakeAll = <H extends Holder<H>>({ wakes }: Place<H>): void => {
  const all = [...wakes]
  // Withdrawing a request after this has no effect.
  wakes.clear()
  for (const wake of all) wake()
}
