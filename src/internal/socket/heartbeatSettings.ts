/** Checks the option `heartbeat`, and adds its defaults. A login may give a connection other settings. */
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import { InvalidOptions } from "../../InvalidOptions.js"
import type { HeartbeatOptions } from "../../ReconnectingSocket.js"
import type { Message } from "../../WebSocketDialer.js"
import { functions, millis, object } from "../check.js"
import type { Coding } from "./codec.js"

export interface HeartbeatSettings<in In> {
  /** Milliseconds. */
  readonly interval: number
  /** Milliseconds. */
  readonly timeout: number
  /** Makes the ping message; may throw. `false` means that no ping is sent, undefined that a protocol ping is sent. */
  readonly ping: (() => Message) | false | undefined
  /** Whether the peer is pinged even if messages arrive. */
  readonly always: boolean
  /** May throw. */
  readonly isPong: ((message: In) => boolean) | undefined
  /** Gives the answer if the message is the peer's own ping. May throw. */
  readonly answer: ((message: In) => Option.Option<Message>) | undefined
}

/** Undefined if there is no heartbeat. Throws `InvalidOptions`. */
export const heartbeatSettingsOf = <Out, In>(
  heartbeat: HeartbeatOptions<Out, In> | false | undefined,
  { encode }: Coding<Out, In>
): HeartbeatSettings<In> | undefined => {
  if (heartbeat === false) return undefined
  const { always = false, answer, interval, isPong, ping, timeout } = object("heartbeat", heartbeat ?? {})
  functions({ answer, isPong }, ["answer", "isPong"], "heartbeat.")
  if (always && ping === false) {
    throw new InvalidOptions({ option: "heartbeat.always", value: always, reason: "has no effect without a ping" })
  }
  return {
    interval: millis("heartbeat.interval", interval ?? "15 seconds", atLeastOne),
    timeout: millis("heartbeat.timeout", timeout ?? "10 seconds", atLeastOne),
    ping: ping === undefined ? undefined : ping === false ? false : pingOf(ping, encode),
    always,
    isPong,
    answer: answer && ((message) => Option.map(checked(answer(message)), (out) => encodedBy(encode, out)))
  }
}

const atLeastOne = { min: "1 millis" } as const

type Encode<Out> = Coding<Out, any>["encode"]

const pingOf = <Out>(ping: Out | (() => Out), encode: Encode<Out>): () => Message => {
  // No codec has functions as messages, so a function makes the message.
  if (typeof ping === "function") return () => encodedBy(encode, (ping as () => Out)())
  const encoded = encode(ping)
  if (Either.isRight(encoded)) return () => encoded.right
  throw new InvalidOptions({
    option: "heartbeat.ping",
    value: ping,
    reason: `cannot be encoded (${String(encoded.left)})`
  })
}

const encodedBy = <Out>(encode: Encode<Out>, message: Out): Message =>
  Either.getOrThrowWith(encode(message), (cause) => cause)

const checked = <Out>(answered: Option.Option<Out>): Option.Option<Out> => {
  if (Option.isOption(answered)) return answered
  throw new TypeError(`answered as ${typeof answered}, not an Option`)
}
