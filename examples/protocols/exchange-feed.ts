/** An exchange's feed: an order book of a snapshot and numbered changes, which begins again after a gap or a loss. */
import { ReconnectingSocket } from "effect-holdfast"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

/** Price and quantity; a quantity of 0 takes the price out of the book. */
const Levels = Schema.Array(Schema.Tuple(Schema.Number, Schema.Number))
const In = Schema.Union(
  Schema.Struct({ type: Schema.Literal("snapshot"), request: Schema.Number, seq: Schema.Number, levels: Levels }),
  Schema.Struct({ type: Schema.Literal("change"), seq: Schema.Number, levels: Levels })
)
const Out = Schema.Union(
  Schema.Struct({ type: Schema.Literal("subscribe", "unsubscribe"), product: Schema.String }),
  Schema.Struct({ type: Schema.Literal("snapshot"), product: Schema.String, request: Schema.Number })
)

/** `seq` is the number of the last change that is in the book. */
export interface Book {
  readonly seq: number
  readonly levels: HashMap.HashMap<number, number>
}

const apply = (book: Book, { levels, seq }: { readonly levels: typeof Levels.Type; readonly seq: number }): Book => ({
  seq,
  levels: levels.reduce(
    (all, [price, quantity]) => quantity === 0 ? HashMap.remove(all, price) : HashMap.set(all, price, quantity),
    book.levels
  )
})

type Pace = Pick<ReconnectingSocket.Options<unknown, unknown>, "backoff" | "stableAfter">

/** The book after each change, always as the exchange had it at that number. */
export const books = (url: string, product: string, pace: Pace = {}) =>
  Stream.unwrapScoped(Effect.gen(function*() {
    let requests = 0
    const socket = yield* ReconnectingSocket.make({
      ...pace,
      dial: { url },
      codec: ReconnectingSocket.json({ in: In, out: Out }),
      subscriptions: { rate: { limit: 5, interval: "1 seconds" } }
    })
    yield* socket.subscribe({ open: { type: "subscribe", product }, close: { type: "unsubscribe", product } })
    /** The snapshot is requested while changes arrive: changes that it already contains are left out later. */
    const snapshot = Effect.suspend(() => {
      const request = ++requests
      return socket.request({ type: "snapshot", product, request }, {
        reply: (message) =>
          message.type === "snapshot" && message.request === request ? Option.some(message) : Option.none()
      })
    }).pipe(Effect.map((message) => apply({ seq: 0, levels: HashMap.empty() }, message)), Effect.option)

    const next = (book: Option.Option<Book>, one: ReconnectingSocket.Received<typeof In.Type>) =>
      Effect.gen(function*() {
        // A new connection has missed changes, so the previous book is useless.
        if (one._tag === "Opened") return Option.none<Book>()
        const { message } = one
        if (message.type !== "change") return book
        const base = Option.exists(book, ({ seq }) => message.seq <= seq + 1) ? book : yield* snapshot
        return Option.map(base, (book) => message.seq === book.seq + 1 ? apply(book, message) : book)
      })
    return socket.received.pipe(
      Stream.mapAccumEffect(Option.none<Book>(), (book, one) => Effect.map(next(book, one), (book) => [book, book])),
      Stream.filterMap((book) => book),
      Stream.changes
    )
  }))
