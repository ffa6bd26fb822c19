/**
 * The queue of one store's calls. A store works on a limited number of calls at a time (a pool of database connections
 * often has ten), while a thousand sessions that expire together call it together. A call that waited inside the store
 * would use up its deadline there.
 *
 * Urgent calls go first: the calls of sessions that have a lease or are about to take one. So a lease does not run out
 * while its own commit waits behind sessions that have only begun.
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Service } from "../../SessionStore.js"
import * as Check from "../check.js"
import { wait } from "../wait.js"

interface Call {
  readonly queue: Set<Call>
  /**
   * `new`: no turn was requested yet. `waiting`: in the queue. `running`: it is the call's turn. `done`: the turn is
   * over.
   */
  state: "new" | "waiting" | "running" | "done"
  /** How many answers the store had given when the call began. */
  answered: number
  onTurn: ((hasTurn: boolean) => void) | undefined
}

export class Queue {
  /** How many answers the store has given, with success or without. */
  private answered = 0
  private readonly limit: number
  private readonly urgent = new Set<Call>()
  private readonly others = new Set<Call>()
  private running = 0

  constructor(limit: number) {
    this.limit = limit
  }

  /** The queue of this store, shared by all its users in the process. */
  static of(store: Service): Queue {
    const found = queues.get(store)
    if (found !== undefined) return found
    const queue = new Queue(Check.count("concurrency", store.concurrency ?? 10, 1))
    queues.set(store, queue)
    return queue
  }

  call(isUrgent: boolean): Call {
    return { queue: isUrgent ? this.urgent : this.others, state: "new", answered: 0, onTurn: undefined }
  }

  /** Starts the call immediately if no waiting call would be overtaken. Gives whether it has started. */
  tryStart(call: Call): boolean {
    if (this.running >= this.limit || this.urgent.size + this.others.size > 0) return false
    this.start(call)
    return true
  }

  /** Waits for the call's turn. Gives `false` if the store answers no call at all. */
  readonly turnOf = (call: Call): Effect.Effect<boolean> =>
    wait<boolean>((resume) => {
      if (this.tryStart(call)) {
        resume(Exit.succeed(true))
        return undefined
      }
      call.state = "waiting"
      call.onTurn = (hasTurn) => resume(Exit.succeed(hasTurn))
      call.queue.add(call)
      return () => this.leave(call)
    })

  answer(): void {
    this.answered++
  }

  /**
   * Called when the call's deadline is over. If the store has not answered any other call meanwhile, the waiting calls
   * fail, too: they need no timers of their own.
   */
  strike(call: Call): void {
    if (this.answered !== call.answered) return
    for (const waiting of [...this.urgent, ...this.others]) {
      this.leave(waiting)
      waiting.onTurn!(false)
    }
  }

  /** Gives up the turn or the place in the queue. */
  leave(call: Call): void {
    const { state } = call
    call.state = "done"
    call.queue.delete(call)
    if (state !== "running") return
    this.running--
    this.startNext()
  }

  private start(call: Call): void {
    call.state = "running"
    call.answered = this.answered
    this.running++
  }

  private startNext(): void {
    const [next] = this.urgent.size > 0 ? this.urgent : this.others
    if (next === undefined) return
    next.queue.delete(next)
    this.start(next)
    next.onTurn!(true)
  }
}

const queues = new WeakMap<Service, Queue>()
