/** The latest price of each item, from a feed whose connection may be lost and is then opened again. */
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

const Tick = Schema.Struct({ item: Schema.String, price: Schema.Number })
const Subscription = Schema.Struct({ subscribe: Schema.Literal("prices") })

/** The item has no price, or no recent one. */
export class NoPrice extends Data.TaggedError("NoPrice")<{ readonly item: string }> {
  override get message(): string {
    return `there is no recent price of ${this.item}`
  }
}

export class Prices extends Effect.Service<Prices>()("example/Prices", {
  scoped: Effect.gen(function*() {
    const maxAge = yield* Config.withDefault(Config.duration("PRICES_MAX_AGE"), Duration.seconds(30))
    const socket = yield* ReconnectingSocket.make({
      name: "prices",
      dial: { url: yield* Config.string("PRICES_URL") },
      codec: ReconnectingSocket.json({ in: Tick, out: Subscription })
    })
    // Sent again on each connection that comes.
    yield* socket.subscribe({ open: { subscribe: "prices" } })

    const latest = new Map<string, { readonly price: number; readonly at: number }>()
    yield* socket.messages.pipe(
      Stream.runForEach(({ item, price }) =>
        Effect.map(Clock.currentTimeMillis, (at) => latest.set(item, { price, at }))
      ),
      // The socket has failed for good. `status` tells the health route, and prices run out after `maxAge`.
      Effect.catchAll((error) => Effect.logError("the feed of prices has failed", error)),
      Effect.forkScoped
    )

    const priceOf = (item: string): Effect.Effect<number, NoPrice> =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const known = latest.get(item)
        const isRecent = known !== undefined && now - known.at <= Duration.toMillis(maxAge)
        return isRecent ? Effect.succeed(known.price) : new NoPrice({ item })
      })

    return { priceOf, status: Effect.map(socket.state, ({ _tag }) => _tag) }
  })
}) {}
