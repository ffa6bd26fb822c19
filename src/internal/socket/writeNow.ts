/**
 * Writes in the current step, without a fiber, for platforms that can.
 *
 * Such a function is stored by the `write` of its connection. So if a user's dialer wraps a connection and replaces its
 * `write`, everything goes through that replacement.
 */
import type { Connection, Message } from "../../WebSocketDialer.js"

/**
 * Hands messages to the transport, like the connection's `write`, and calls `onWritten` when all are written: never if
 * the connection ends before.
 */
export type WriteNow = (messages: ReadonlyArray<Message>, onWritten: () => void) => void

const byWrite = new WeakMap<Connection["write"], WriteNow>()

export const writeNowOf = ({ write }: Connection): WriteNow | undefined => byWrite.get(write)

/** Gives `write`, which has the form `now` from now on. */
export const withWriteNow = (write: Connection["write"], now: WriteNow): Connection["write"] => {
  byWrite.set(write, now)
  return write
}
