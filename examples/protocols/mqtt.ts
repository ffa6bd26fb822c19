/** MQTT 3.1.1 over a WebSocket, with QoS 1: publishing and subscribing, at least once. */
import { ReconnectingSocket } from "effect-holdfast"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Mqtt from "mqtt-packet"

export class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {}

/** A packet may end anywhere in a frame: the parser of each connection keeps what is left. */
const codec = (): ReconnectingSocket.BatchCodec<Mqtt.Packet, Mqtt.Packet> => {
  const parser = Mqtt.parser()
  const packets: Array<Mqtt.Packet> = []
  parser.on("packet", (packet: Mqtt.Packet) => packets.push(packet))
  parser.on("error", (error: Error) => {
    throw error
  })
  return {
    encode: (packet) => Mqtt.generate(packet),
    decodeMany: (frame) => {
      parser.parse(Buffer.from(frame as Uint8Array))
      return packets.splice(0)
    }
  }
}

/** The broker keeps the subscriptions of a `clientId`, and the messages that it has not confirmed. */
export const connect = (url: string, clientId: string) =>
  Effect.gen(function*() {
    let [publications, subscriptions] = [0, 0]
    const socket = yield* ReconnectingSocket.make({
      dial: { url, protocols: ["mqtt"] },
      codec,
      heartbeat: {
        interval: "20 seconds",
        always: true,
        ping: { cmd: "pingreq" },
        isPong: ({ cmd }) => cmd === "pingresp"
      },
      onOpen: Effect.fnUntraced(function*({ receive, send }) {
        yield* send({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clientId, clean: false, keepalive: 20 })
        const answer = yield* receive
        if (answer.cmd !== "connack" || answer.returnCode !== 0) return yield* new Refused({ message: clientId })
      }),
      acknowledge: {
        id: (packet) => packet.cmd === "publish" ? packet.messageId : undefined,
        acknowledged: ({ cmd, messageId }) => cmd === "puback" ? Option.fromNullable(messageId) : Option.none(),
        cumulative: false,
        resent: (packet) => ({ ...packet, dup: true } as Mqtt.Packet)
      }
    })
    /** Succeeds when the broker has confirmed the message. Of the identifiers, half are for publications. */
    const publish = (topic: string, payload: string) =>
      Effect.suspend(() => {
        const messageId = publications++ % 0x7fff + 1
        return socket.deliver({ cmd: "publish", qos: 1, dup: false, retain: false, topic, payload, messageId })
      })
    const subscribe = (topic: string) =>
      Effect.suspend(() => {
        const messageId = 0x8000 + subscriptions++ % 0x8000
        return socket.subscribe({
          open: { cmd: "subscribe", messageId, subscriptions: [{ topic, qos: 1 }] },
          close: { cmd: "unsubscribe", messageId, unsubscriptions: [topic] },
          confirmed: (packet) =>
            packet.cmd !== "suback" || packet.messageId !== messageId
              ? Option.none()
              : Option.some(packet.granted[0] === 128 ? Either.left(new Refused({ message: topic })) : Either.void)
        })
      })
    /** Confirms each message when it has been handled. One that was not confirmed comes again, with `dup`. */
    const handle = <E, R>(f: (packet: Mqtt.IPublishPacket) => Effect.Effect<unknown, E, R>) =>
      Stream.runForEach(Stream.filter(socket.messages, (packet) => packet.cmd === "publish"), (packet) =>
        Effect.zipRight(
          f(packet),
          packet.qos > 0 ? socket.send({ cmd: "puback", messageId: packet.messageId! }) : Effect.void
        ))
    return { publish, subscribe, handle, socket }
  })
