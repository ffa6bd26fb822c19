/**
 * The calls of one store, in their order. A store works on so many at a time (a pool of database connections often has
 * ten), and a thousand sessions that expire together ask it together: a call that waited inside the store would lose
 * there the time that it has for its answer.
 *
 * A process's urgent calls go first: those of sessions that have a lease, or are about to take one. So a lease does not
 * run out while its own commit waits behind sessions that only begin.
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Service } from "../../SessionStore.js"
import * as Check from "../check.js"
import { wait } from "../wait.js"

interface Call {
  readonly queue: Set<Call>
  /** Not yet asked for, waiting, having its turn, or past it. */
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

  /** The queue of this store, whoever asks it. */
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

  /** Whether the call may begin immediately, ahead of nobody who waits. */
  tryStart(call: Call): boolean {
    if (this.running >= this.limit || this.urgent.size + this.others.size > 0) return false
    this.start(call)
    return true
  }

  /** Whether it is the call's turn; `false`: the store answers nobody. */
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
   * The call's time for an answer is over. If the store has answered no other call meanwhile either, those that wait
   * are told so: they need no timers of their own.
   */
  strike(call: Call): void {
    if (this.answered !== call.answered) return
    for (const waiting of [...this.urgent, ...this.others]) {
      this.leave(waiting)
      waiting.onTurn!(false)
    }
  }

  /** Gives the turn, or the place in the queue, up. */
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
