/**
 * What a socket publishes: its events with the metrics that count them, and its states.
 */
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import type * as Stream from "effect/Stream"
import type { ConnectionState, SocketEvent } from "../../ReconnectingSocket.js"
import type { Message } from "../../WebSocketDialer.js"
import { Latest } from "../latest.js"
import { labelOf } from "./policy.js"

/** A callback of the options. */
export type Callback = Extract<SocketEvent, { readonly _tag: "Rejected" }>["callback"]

const openedCounter = Metric.counter("holdfast_socket_opened_total", {
  description: "Connections of reconnecting sockets that became ready",
  incremental: true
})

const lostCounter = Metric.counter("holdfast_socket_lost_total", {
  description: "Connections of reconnecting sockets that were lost, by reason",
  incremental: true
})

const droppedCounter = Metric.counter("holdfast_socket_messages_dropped_total", {
  description: "Messages that reconnecting sockets gave up, by reason",
  incremental: true
})

export class Events {
  private readonly published = new Latest<SocketEvent>(1024)
  private readonly states = new Latest<ConnectionState>(1024)

  publish(event: SocketEvent): void {
    this.published.offer(event)
    switch (event._tag) {
      case "Opened":
        return openedCounter.unsafeUpdate(1, [])
      case "Lost":
        return lostCounter.unsafeUpdate(1, [MetricLabel.make("reason", labelOf(event.failure))])
      case "Dropped":
        return droppedCounter.unsafeUpdate(1, [MetricLabel.make("reason", event.reason)])
      case "Expired":
        return droppedCounter.unsafeUpdate(1, [MetricLabel.make("reason", event._tag)])
    }
  }

  publishState(state: ConnectionState): void {
    this.states.offer(state)
  }

  /** Nothing more is published; readers read what they have not read, and end. */
  end(): void {
    this.states.end()
    this.published.end()
  }

  get stream(): Stream.Stream<SocketEvent> {
    return this.published.changes(Option.none)
  }

  stateChanges(current: () => ConnectionState): Stream.Stream<ConnectionState> {
    return this.states.changes(() => Option.some(current()))
  }

  /** What a callback of the user decides; `otherwise`, with a `Rejected` event, if the callback throws. */
  decided<A>(callback: Callback, decide: () => A, otherwise: A, message?: Message): A {
    try {
      return decide()
    } catch (cause) {
      this.publish({ _tag: "Rejected", callback, message, cause })
      return otherwise
    }
  }
}
