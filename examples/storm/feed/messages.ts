/** What goes over the feed, as JSON. */
import * as Schema from "effect/Schema"

/** So many that two subscriptions of a client are seldom to the same one after another. */
export const topicCount = 12

/** Numbered from 1 by its client, whose name is in the URL: so that the server knows one that comes twice. */
export const Said = Schema.Struct({ number: Schema.Int, text: Schema.String })

export const FromClient = Schema.Union(
  Schema.Struct({ subscribe: Schema.String }),
  Schema.Struct({ unsubscribe: Schema.String }),
  Said
)
export type FromClient = typeof FromClient.Type

export const FromServer = Schema.Union(
  /** What comes of the topic from now on has no gaps. */
  Schema.Struct({ subscribed: Schema.String }),
  /** Of one topic each number is higher than the last, also when another server has sent that. */
  Schema.Struct({ topic: Schema.String, number: Schema.Int }),
  /** All that was said, up to this number and with it, is kept. */
  Schema.Struct({ acknowledged: Schema.Int })
)
export type FromServer = typeof FromServer.Type
