/** The messages of the feed, as JSON. */
import * as Schema from "effect/Schema"

/** So many topics that a client seldom subscribes to the same topic twice in a row. */
export const topicCount = 12

/** Numbered from 1 by its client, whose name is in the URL, so that the server recognises repeats. */
export const Said = Schema.Struct({ number: Schema.Int, text: Schema.String })

export const FromClient = Schema.Union(
  Schema.Struct({ subscribe: Schema.String }),
  Schema.Struct({ unsubscribe: Schema.String }),
  Said
)
export type FromClient = typeof FromClient.Type

export const FromServer = Schema.Union(
  /** From now on the messages of the topic have no gaps. */
  Schema.Struct({ subscribed: Schema.String }),
  /** Within a topic each number is higher than the last, also if another server sent that one. */
  Schema.Struct({ topic: Schema.String, number: Schema.Int }),
  /** All messages up to and including this number are stored. */
  Schema.Struct({ acknowledged: Schema.Int })
)
export type FromServer = typeof FromServer.Type
