/**
 * The subscriptions of a socket: which there are, and which connection has been sent which.
 */
import * as Effect from "effect/Effect"
import type { ConnectionFailure, Message } from "../../WebSocketDialer.js"
import type { LiveConnection } from "./connection.js"
import { type Outbox, queuedMessage } from "./outbox.js"

export interface Subscription {
  readonly open: Message
  readonly close: Message | undefined
}

export class Subscriptions<Out> {
  /** In the order in which they are sent on each new connection. */
  private readonly all = new Set<Subscription>()
  private readonly outbox: Outbox<Out>

  constructor(outbox: Outbox<Out>) {
    this.outbox = outbox
  }

  get size(): number {
    return this.all.size
  }

  /** Sends the subscription if there is an open connection; else it is sent with the next one. */
  add(subscription: Subscription, open: LiveConnection<any> | undefined): void {
    this.all.add(subscription)
    if (open === undefined) return
    open.subscribed.add(subscription)
    this.sendInTurn(open, subscription.open)
  }

  /** Takes the subscription back on every connection that has been sent it. */
  remove(
    subscription: Subscription,
    connections: Iterable<LiveConnection<any>>,
    open: LiveConnection<any> | undefined
  ): void {
    this.all.delete(subscription)
    for (const live of connections) {
      if (!live.subscribed.delete(subscription) || subscription.close === undefined || live.failure !== undefined) {
        continue
      }
      if (live === open) this.sendInTurn(live, subscription.close)
      else live.send(subscription.close)
    }
  }

  /** Sends all of them on a connection that opens; waits until they are written. */
  sendAll(live: LiveConnection<any>): Effect.Effect<void, ConnectionFailure> {
    return Effect.suspend(() => {
      const all = [...this.all]
      for (const subscription of all) live.subscribed.add(subscription)
      return live.sendAll(all.map(({ open }) => open))
    })
  }

  /** Sends the subscriptions that were added while `sendAll` waited. */
  sendMissing(live: LiveConnection<any>): void {
    for (const subscription of this.all) {
      if (live.subscribed.has(subscription)) continue
      live.subscribed.add(subscription)
      live.send(subscription.open)
    }
  }

  /** Queued behind earlier messages, for this connection only: dropped if the connection is lost. */
  private sendInTurn(live: LiveConnection<any>, data: Message): void {
    this.outbox.offer(queuedMessage(undefined as Out, data, { only: live }))
  }
}
