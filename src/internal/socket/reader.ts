/**
 * What becomes of a message that comes in: it is decoded; then it is an acknowledgement, or an answer to the heartbeat,
 * or it goes to the connection's inbox. A connection whose inbox is full is paused, or ends where it cannot be.
 */
import * as Option from "effect/Option"
import { ConnectionLost, type Message } from "../../WebSocketDialer.js"
import { byteLength } from "./codec.js"
import type { LiveConnection } from "./connection.js"
import type { Wiring } from "./wiring.js"

export class Reader<Out, In> {
  private readonly wiring: Wiring<Out, In, any>

  constructor(wiring: Wiring<Out, In, any>) {
    this.wiring = wiring
  }

  hear(live: LiveConnection<In>, data: Message): void {
    if (live.failure !== undefined) return
    const { clock, codec, events, settings } = this.wiring
    live.heard(clock.unsafeCurrentTimeMillis())
    // A character is at most three bytes, so that most messages need not be measured.
    const bytes = data.length > settings.maxPayload / 3 ? byteLength(data) : data.length
    if (bytes > settings.maxPayload) {
      const cause = `a message of ${bytes} bytes`
      return live.fail(new ConnectionLost({ reason: "InvalidData", cause }))
    }
    const decoded = events.decided("decode", () => Option.some(codec.decode(data)), Option.none<In>(), data)
    if (Option.isSome(decoded) && !this.isTaken(decoded.value, data)) this.keep(live, decoded.value, bytes)
  }

  /** Whether the message was for the socket itself. */
  private isTaken(message: In, data: Message): boolean {
    const { events, options: { acknowledge, heartbeat }, outbox } = this.wiring
    if (acknowledge !== undefined) {
      const id = events.decided(
        "acknowledged",
        // What is not an Option throws here.
        () => Option.map(acknowledge.acknowledged(message), (id) => id),
        Option.none(),
        data
      )
      if (Option.isSome(id)) {
        outbox.acknowledge(id.value)
        return true
      }
    }
    if (!heartbeat || heartbeat.isPong === undefined) return false
    const { isPong } = heartbeat
    return events.decided("isPong", () => isPong(message), false, data)
  }

  private keep(live: LiveConnection<In>, message: In, bytes: number): void {
    const { orders, outbox } = this.wiring
    if (live.inbox.isFull && (orders.isClosing || !live.canPause)) {
      // A closing has no time to wait until somebody takes messages.
      if (orders.isClosing) return
      return live.fail(new ConnectionLost({ reason: "InboxOverflow" }))
    }
    live.inbox.push(message, bytes)
    // A consumer of messages may wait for an acknowledgement that comes behind them.
    const isHeldBack = outbox.isAwaiting && !live.inbox.isFullOfBytes
    if (live.inbox.isFull && !isHeldBack && !orders.isClosing) live.pause()
  }
}
