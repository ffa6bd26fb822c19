/**
 * One WebSocket for a fleet: one of the processes that run this program holds the connection, and if it dies, another
 * one takes over within about six seconds. Start several, each with its own port, with one PostgreSQL:
 *
 * DATABASE_URL=postgres://… FEED_URL=ws://… RUNNER_PORT=34431 node --import tsx examples/cluster-socket.ts
 *
 * `@effect/cluster` decides which process it is, by a lock in the database that expires. A process that is suspended
 * for longer than that does not know that it has lost the lock, and still has its connection. So each login carries a
 * fence, a number that increases with each takeover. If the feed refuses a lower fence than the last one, and closes
 * the connection that logged in with it, it has one client at a time.
 */
import * as RunnerAddress from "@effect/cluster/RunnerAddress"
import * as Singleton from "@effect/cluster/Singleton"
import * as NodeClusterSocket from "@effect/platform-node/NodeClusterSocket"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as NodeWebSocketDialer from "effect-holdfast/node/NodeWebSocketDialer"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

const Login = Schema.Struct({ fence: Schema.Number, process: Schema.Number })
const Heard = Schema.Union(Schema.Struct({ welcome: Schema.Number }), Schema.Struct({ news: Schema.String }))

/** A number that is higher than all earlier ones, of any process. */
const nextFence = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  // If several processes make the table at the same time, some of their statements fail.
  yield* Effect.retry(
    sql`CREATE TABLE IF NOT EXISTS feed_fence (feed TEXT PRIMARY KEY, fence INTEGER NOT NULL)`,
    Schedule.intersect(Schedule.spaced("100 millis"), Schedule.recurs(20))
  )
  const [row] = yield* sql<{ fence: number }>`
    INSERT INTO feed_fence (feed, fence) VALUES ('news', 1)
    ON CONFLICT (feed) DO UPDATE SET fence = feed_fence.fence + 1 RETURNING fence`
  return row!.fence
})

/** Runs in one process of the fleet: a takeover runs it again, with a new fence. */
const feed = Effect.gen(function*() {
  const fence = yield* nextFence
  const socket = yield* ReconnectingSocket.make({
    dial: { url: yield* Config.string("FEED_URL") },
    codec: ReconnectingSocket.json({ in: Heard, out: Login }),
    // A feed that has seen a higher fence closes with 1008, after which the socket does not dial again.
    onOpen: ({ find, send }) =>
      Effect.zipRight(
        send({ fence, process: process.pid }),
        find((heard) => "welcome" in heard ? Option.some(heard) : Option.none())
      )
  })
  yield* Stream.runForEach(socket.messages, (heard) => "news" in heard ? Effect.log(heard.news) : Effect.void)
}).pipe(
  Effect.catchAll((error) => Effect.logWarning("the feed is another process's, or cannot be had", error)),
  Effect.scoped
)

const cluster = Layer.unwrapEffect(Effect.map(Config.integer("RUNNER_PORT"), (port) =>
  NodeClusterSocket.layer({
    storage: "sql",
    shardingConfig: {
      runnerAddress: Option.some(RunnerAddress.make("127.0.0.1", port)),
      // A connection that is cut off with its process may keep an advisory lock until TCP notices.
      shardLockDisableAdvisory: true,
      shardLockExpiration: "6 seconds",
      shardLockRefreshInterval: "2 seconds",
      refreshAssignmentsInterval: "1 second"
    }
  })))

Singleton.make("feed", feed).pipe(
  Layer.provide([cluster, NodeWebSocketDialer.layer()]),
  Layer.provide(PgClient.layerConfig({ url: Config.redacted("DATABASE_URL") })),
  Layer.launch,
  NodeRuntime.runMain
)
