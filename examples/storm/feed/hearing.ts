/** Compares the messages that a client receives with the server's numbers for each topic. */
import type { FromServer } from "./messages.js"

export class Hearing {
  heard = 0
  /** Numbers that were not higher than the last of their topic. */
  outOfOrder = 0
  /** Numbers that were missing within one subscription on one connection. */
  missing = 0

  private readonly last = new Map<string, number>()
  /** Topics with a new subscription: earlier messages do not count as missing. */
  private readonly begun = new Set<string>()

  hear(message: FromServer): void {
    if ("subscribed" in message) this.begun.add(message.subscribed)
    if (!("topic" in message)) return
    const { number, topic } = message
    const last = this.last.get(topic)
    this.heard++
    if (last !== undefined && number <= last) this.outOfOrder++
    if (last !== undefined && number > last + 1 && !this.begun.has(topic)) this.missing += number - last - 1
    this.begun.delete(topic)
    this.last.set(topic, number)
  }
}
