/**
 * How messages become frames and frames become messages: the user's codec in a form whose functions cannot throw, the
 * default codec, and the length of frames.
 */
import * as Either from "effect/Either"
import * as Predicate from "effect/Predicate"
import { InvalidOptions } from "../../InvalidOptions.js"
import type { BatchCodec, Codec, Options } from "../../ReconnectingSocket.js"
import type { Message } from "../../WebSocketDialer.js"

/** A frame's messages; `failure` if the codec threw after it had given these messages. */
export interface Decoded<out In> {
  readonly messages: ReadonlyArray<In>
  readonly failure: { readonly cause: unknown } | undefined
}

/** Decodes the frames of one connection. */
export type Decode<out In> = (data: Message) => Decoded<In>

export interface Coding<in Out, out In> {
  /** Left: why there is no frame, because the encoder threw, or gave neither text nor bytes. */
  readonly encode: (message: Out) => Either.Either<Message, unknown>
  /** Makes the decoder of a new connection. Throws what the user's function throws. */
  readonly makeDecode: () => Decode<In>
  /**
   * Whether each connection has its own decoder: after such a decoder has thrown, the next frame cannot be decoded
   * reliably.
   */
  readonly isStateful: boolean
}

type AnyCodec<Out, In> = Codec<Out, In> | BatchCodec<Out, In>

/** Leaves text and bytes unchanged. */
const raw: Codec<any, any> = { encode: (message) => message, decode: (message) => message }

/** Throws `InvalidOptions`. */
export const codingOf = <Out, In>(
  codec: Options<Out, In, any, any, any, any, any, any>["codec"] = raw
): Coding<Out, In> => {
  const isStateful = isFactory(codec)
  const encoder = isStateful ? made(codec) : checked(codec, codec)
  const decode = decodeWith(encoder)
  return {
    encode: (message) => encodeWith(encoder, message),
    makeDecode: isStateful ? () => decodeWith(checked(codec(), codec)) : () => decode,
    isStateful
  }
}

const isFactory = <Out, In>(codec: AnyCodec<Out, In> | (() => AnyCodec<Out, In>)): codec is () => AnyCodec<Out, In> =>
  typeof codec === "function"

const made = <Out, In>(make: () => AnyCodec<Out, In>): AnyCodec<Out, In> => {
  let codec: AnyCodec<Out, In>
  try {
    codec = make()
  } catch (cause) {
    throw new InvalidOptions({ option: "codec", value: make, reason: `the function threw (${String(cause)})` })
  }
  return checked(codec, make)
}

const checked = <Out, In>(codec: AnyCodec<Out, In>, value: unknown): AnyCodec<Out, In> => {
  const has = (name: string) => Predicate.hasProperty(codec, name) && typeof codec[name] === "function"
  if (has("encode") && (has("decode") || has("decodeMany"))) return codec
  throw new InvalidOptions({ option: "codec", value, reason: "a codec has `encode`, and `decode` or `decodeMany`" })
}

const encodeWith = <Out>(codec: AnyCodec<Out, any>, message: Out): Either.Either<Message, unknown> => {
  try {
    const data: unknown = codec.encode(message)
    if (typeof data === "string" || data instanceof Uint8Array) return Either.right(data)
    throw new TypeError(`encoded as ${typeof data}, neither text nor bytes`)
  } catch (cause) {
    return Either.left(cause)
  }
}

const decodeWith = <In>(codec: AnyCodec<any, In>): Decode<In> => {
  // Each iterable is read to its end before its first message is handled.
  if ("decodeMany" in codec) {
    return (data) => {
      const messages: Array<In> = []
      try {
        for (const message of codec.decodeMany(data)) messages.push(message)
      } catch (cause) {
        return { messages, failure: { cause } }
      }
      return { messages, failure: undefined }
    }
  }
  return (data) => {
    try {
      return { messages: [codec.decode(data)], failure: undefined }
    } catch (cause) {
      return { messages: [], failure: { cause } }
    }
  }
}

const encoder = new TextEncoder()
const scratch = new Uint8Array(8 * 1024)

/** The length of a message as UTF-8, without the copy that an encoder makes of it. */
export const byteLength = (message: Message): number => {
  if (typeof message !== "string") return message.byteLength
  let bytes = 0
  for (let at = 0; at < message.length;) {
    const { read, written } = encoder.encodeInto(at === 0 ? message : message.slice(at), scratch)
    at += read
    bytes += written
  }
  return bytes
}
