/**
 * Handles each incoming frame: decodes it, and handles acknowledgements, answers to the heartbeat, the peer's own
 * pings, and awaited answers itself. All other messages go to the connection's inbox. If the inbox is full, the
 * connection is paused, or ends if it cannot be paused.
 */
import * as Option from "effect/Option"
import { ConnectionLost, type Message } from "../../WebSocketDialer.js"
import { byteLength } from "./codec.js"
import type { LiveConnection } from "./connection.js"
import { MessageTooLong } from "./policy.js"
import type { Wiring } from "./wiring.js"

export class Reader<Out, In> {
  private readonly wiring: Wiring<Out, In, any>

  constructor(wiring: Wiring<Out, In, any>) {
    this.wiring = wiring
  }

  /** Must be called once for each connection, before listening to it. */
  attach(live: LiveConnection<In>): void {
    const { events, settings: { coding } } = this.wiring
    try {
      live.decode = coding.makeDecode()
    } catch (cause) {
      events.publish({ _tag: "Rejected", callback: "codec", cause })
      live.fail(new ConnectionLost({ reason: "InvalidData", cause }))
    }
  }

  hear(live: LiveConnection<In>, data: Message): void {
    if (live.failure !== undefined || live.decode === undefined) return
    const { clock, events, settings } = this.wiring
    const limit = live.maxPayload
    live.heard(clock.unsafeCurrentTimeMillis())
    // A character has at most three bytes, so most messages need not be measured.
    const bytes = data.length > limit / 3 ? byteLength(data) : data.length
    if (bytes > limit) {
      const cause = new MessageTooLong({ bytes, limit })
      return live.fail(new ConnectionLost({ reason: "InvalidData", cause }))
    }
    const { failure, messages } = live.decode(data)
    this.sort(live, messages, data, bytes)
    if (failure === undefined) return
    events.publish({ _tag: "Rejected", callback: "decode", message: data, cause: failure.cause })
    // A decoder with a state cannot decode the next frame reliably.
    if (settings.coding.isStateful) live.fail(new ConnectionLost({ reason: "InvalidData", cause: failure.cause }))
  }

  /**
   * Handles the messages of one frame one by one: a frame may contain an acknowledgement between messages for the user.
   */
  private sort(live: LiveConnection<In>, messages: ReadonlyArray<In>, data: Message, bytes: number): void {
    // An inbox with any room takes a whole frame.
    const hadRoom = this.hasRoom(live)
    for (const message of messages) {
      if (live.failure !== undefined) return
      if (!this.isTaken(live, message, data)) this.keep(live, message, bytes / messages.length, hadRoom)
      else if (live.isLoggingIn) live.inbox.pushServed(message, bytes / messages.length)
    }
  }

  /** Whether the message was for the socket itself: an acknowledgement, a pong, a ping, or an awaited answer. */
  private isTaken(live: LiveConnection<In>, message: In, data: Message): boolean {
    return this.isAcknowledgement(live, message, data) || live.heartbeat!.takes(message, data) ||
      live.awaiting.take(message, data)
  }

  private isAcknowledgement(live: LiveConnection<In>, message: In, data: Message): boolean {
    const { events, options: { acknowledge }, outbox } = this.wiring
    if (acknowledge === undefined) return false
    const acknowledged = () => {
      const ids = identifiersOf(acknowledge.acknowledged(message))
      for (const id of ids) outbox.acknowledge(id, live)
      return ids.length > 0
    }
    return events.decided("acknowledged", acknowledged, false, data)
  }

  private keep(live: LiveConnection<In>, message: In, bytes: number, hadRoom: boolean): void {
    const { orders } = this.wiring
    if (!hadRoom && (orders.isClosing || !live.canPause)) {
      // While the socket closes, there is no time to wait until messages are taken.
      if (orders.isClosing) return
      return live.fail(new ConnectionLost({ reason: "InboxOverflow" }))
    }
    live.inbox.push(message, bytes, live.number)
    if (!this.hasRoom(live) && !orders.isClosing) live.pause()
  }

  /**
   * While an acknowledgement or an answer is awaited, only the bytes count. That answer may come after messages that
   * are not taken: the consumer of messages may be waiting for the answer, or there may be no consumer.
   */
  private hasRoom({ awaiting, inbox }: LiveConnection<In>): boolean {
    return this.wiring.outbox.isAwaiting || !awaiting.isEmpty ? !inbox.isFullOfBytes : !inbox.isFull
  }
}

const identifiersOf = (acknowledged: Option.Option<unknown> | ReadonlyArray<unknown>): ReadonlyArray<unknown> => {
  if (Option.isOption(acknowledged)) return Option.toArray(acknowledged)
  if (Array.isArray(acknowledged)) return acknowledged
  throw new TypeError(`acknowledged as ${typeof acknowledged}, neither an Option nor an array`)
}
