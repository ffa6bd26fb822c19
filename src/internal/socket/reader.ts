/**
 * Handles each frame that comes in: decodes it, and takes for the socket itself acknowledgements, answers to the
 * heartbeat, the peer's own pings, and answers that are awaited. All other messages go to the connection's inbox. A
 * connection whose inbox is full is paused, or ends if it cannot be paused.
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

  /** To be called once for each connection, before it is listened to. */
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
    // A character is at most three bytes, so that most messages need not be measured.
    const bytes = data.length > limit / 3 ? byteLength(data) : data.length
    if (bytes > limit) {
      const cause = new MessageTooLong({ bytes, limit })
      return live.fail(new ConnectionLost({ reason: "InvalidData", cause }))
    }
    const { failure, messages } = live.decode(data)
    this.sort(live, messages, data, bytes)
    if (failure === undefined) return
    events.publish({ _tag: "Rejected", callback: "decode", message: data, cause: failure.cause })
    // Nobody knows what a decoder with a state of its own would make of the next frame.
    if (settings.coding.isStateful) live.fail(new ConnectionLost({ reason: "InvalidData", cause: failure.cause }))
  }

  /** The messages of one frame, one by one: a frame may hold an acknowledgement between messages for the user. */
  private sort(live: LiveConnection<In>, messages: ReadonlyArray<In>, data: Message, bytes: number): void {
    // An inbox that has room takes a whole frame.
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
      // A closing has no time to wait until somebody takes messages.
      if (orders.isClosing) return
      return live.fail(new ConnectionLost({ reason: "InboxOverflow" }))
    }
    live.inbox.push(message, bytes, live.number)
    if (!this.hasRoom(live) && !orders.isClosing) live.pause()
  }

  /**
   * Only bytes count while something is awaited, an acknowledgement or an answer, which may come behind messages that
   * nobody takes: the consumer of messages may be waiting for it, or there may be no consumer.
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
