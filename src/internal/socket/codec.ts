/**
 * How messages become frames: the codec that is used by default, encoding that cannot throw, and lengths.
 */
import * as Either from "effect/Either"
import type { Codec } from "../../ReconnectingSocket.js"
import type { Message } from "../../WebSocketDialer.js"

/** Text and bytes as they are. */
export const raw: Codec<any, any> = { encode: (message) => message, decode: (message) => message }

/** The frame, or why there is none: what `encode` threw, or that it gave neither text nor bytes. */
export const encodeWith = <Out>(codec: Codec<Out, any>, message: Out): Either.Either<Message, unknown> => {
  try {
    const data: unknown = codec.encode(message)
    if (typeof data === "string" || data instanceof Uint8Array) return Either.right(data)
    throw new TypeError(`encoded as ${typeof data}, neither text nor bytes`)
  } catch (cause) {
    return Either.left(cause)
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
