/** A request: a message of the outbox whose reply is awaited on the connection that was handed the message. */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { wait } from "../wait.js"
import type { LiveConnection } from "./connection.js"
import type { Offered, Outcome, QueuedMessage } from "./outbox.js"
import type { Wiring } from "./wiring.js"

/** Why there is no reply. */
export type NoReply = Exclude<Outcome, "Done"> | Exclude<Offered, "Accepted" | "Waiting">

/**
 * Waits for the reply, without a time limit. If this is interrupted, the message is removed from the queue if it has
 * not been sent yet, and the reply is no longer awaited.
 */
export const request = <Out, In, B>(
  { events, orders, outbox }: Wiring<Out, In, any>,
  queued: QueuedMessage<Out>,
  reply: (message: In) => Option.Option<B>
): Effect.Effect<B, NoReply> =>
  wait<B, NoReply>((resume) => {
    /**
     * The connections on which the reply is awaited, each with a function that stops awaiting. A kept message may be
     * sent on several.
     */
    const awaited = new Map<LiveConnection<In>, () => void>()
    let isDelivered = false
    const stop = () => {
      queued.onHanded = queued.onDone = undefined
      for (const giveUp of awaited.values()) giveUp()
      awaited.clear()
    }
    const end = (exit: Exit.Exit<B, NoReply>) => {
      stop()
      resume(exit)
    }
    queued.onHanded = (live: LiveConnection<In>) => {
      const giveUpReply = live.awaiting.add((message, data) => {
        const replied = events.decided("reply", () => checked(reply(message)), Option.none<B>(), data)
        if (Option.isNone(replied)) return false
        end(Exit.succeed(replied.value))
        return true
      })
      const giveUpLoss = live.onceLost(() => {
        giveUpReply()
        awaited.delete(live)
        // The message will be sent again, and the reply may come on that connection.
        if (awaited.size > 0 || queued.isKept && !isDelivered) return
        end(Exit.fail(orders.isClosing ? "Closed" : "Lost"))
      })
      awaited.set(live, () => {
        giveUpReply()
        giveUpLoss()
      })
    }
    queued.onDone = (outcome) => {
      if (outcome === "Done") isDelivered = true
      else end(Exit.fail(outcome))
    }
    const offered = outbox.offer(queued)
    if (offered === "Full" || offered === "Closed") end(Exit.fail(offered))
    return () => {
      stop()
      outbox.takeBack(queued)
    }
  })

const checked = <B>(replied: Option.Option<B>): Option.Option<B> => {
  if (Option.isOption(replied)) return replied
  throw new TypeError(`replied as ${typeof replied}, not an Option`)
}
