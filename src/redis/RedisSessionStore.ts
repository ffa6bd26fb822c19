/**
 * A `SessionStore` in Redis, through ioredis.
 *
 * **What it guarantees.** A session is one hash without an expiry, changed by one script, which also tells the other
 * processes. The clock is Redis's.
 *
 * **What it does not.** A Redis without an append-only file forgets on a restart what it has acknowledged, and so may a
 * failover: then a token may be presented twice, and the next presentation is `uncertain` where a process remembers the
 * session. `replicas` waits for copies, which narrows that and does not close it. A server that evicts
 * (`maxmemory-policy`) may drop the row: a process that remembers it restores it.
 *
 * @since 0.1.0
 */

import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { Redis } from "ioredis"
import * as Check from "../internal/check.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as SessionStore from "../SessionStore.js"

/**
 * How Redis is reached: two connections of the store's own are opened, and closed with it.
 *
 * @since 0.1.0
 * @category models
 */
export type Options =
  & ({ readonly url: string | Redacted.Redacted<string> } | { readonly connect: () => Redis })
  & {
    /** The prefix of the names of keys and of the channel. Default: `holdfast:`. */
    readonly prefix?: string | undefined
    /** How many replicas must have a write before it counts. Default: 0. */
    readonly replicas?: number | undefined
  }

/**
 * A store in Redis. Give `connect` for what a URL does not say, and have it turn the offline queue off
 * (`enableOfflineQueue: false`): a queue would run a write long after it was given up.
 *
 * @example
 * ```ts
 * import { RedisSessionStore } from "effect-holdfast/redis"
 *
 * const store = RedisSessionStore.layer({ url: "redis://127.0.0.1:6379" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options
): Layer.Layer<SessionStore.SessionStore, InvalidOptions | SessionStore.StoreError> =>
  Layer.scoped(
    SessionStore.SessionStore,
    Effect.gen(function*() {
      const { connect, prefix, replicas } = yield* Check.validated(() => validate(options))
      const redis = yield* connection(connect)
      const listener = yield* connection(connect)
      const channel = `${prefix}news`
      return SessionStore.SessionStore.of({
        read: (key) =>
          Effect.map(
            attempt("read", () => redis.eval(reading, 1, prefix + key) as Promise<Reply>),
            ([now, revision, content]) => ({
              row: typeof content === "string"
                ? Option.some(SessionStore.decode(Number(revision), content))
                : Option.none(),
              now: Number(now)
            })
          ),
        compareAndSet: (key, revision, row) =>
          attempt("compareAndSet", async () => {
            const content = SessionStore.encode(row)
            const news = SessionStore.isNews(row) ? channel : ""
            const written = await redis.eval(writing, 1, prefix + key, revision ?? "", row.revision, content, news, key)
            if (written === 1 && replicas > 0 && await redis.wait(replicas, 1000) < replicas) {
              throw new Error("too few replicas have the write")
            }
            return written === 1
          }),
        notices: yield* Stream.share(noticesOf(listener, channel), { capacity: 256, strategy: "sliding" }),
        // One connection carries them all, one behind the other.
        concurrency: 100
      })
    })
  )

type Reply = readonly [now: string, revision: string | null, content: string | null]

/** Numbers go through text: a number of Lua loses digits when it is printed. */
const clock = `local t = redis.call("TIME")
local now = t[1] .. string.format("%03d", math.floor(tonumber(t[2]) / 1000))
`
const reading = `${clock}local row = redis.call("HMGET", KEYS[1], "revision", "content")
return { now, row[1], row[2] }`

const writing = `local revision = redis.call("HGET", KEYS[1], "revision") or ""
if revision ~= ARGV[1] then return 0 end
redis.call("HSET", KEYS[1], "revision", ARGV[2], "content", ARGV[3])
if ARGV[4] ~= "" then redis.call("PUBLISH", ARGV[4], ARGV[5]) end
return 1`

const validate = (options: Options) => {
  const { prefix = "holdfast:", replicas = 0 } = options
  if (typeof prefix !== "string") {
    throw new InvalidOptions({ option: "prefix", value: prefix, reason: "must be text" })
  }
  return { prefix, replicas: Check.count("replicas", replicas, 0), connect: connectOf(options) }
}

const connectOf = (options: Options): () => Redis => {
  if ("connect" in options) return options.connect
  const url = Redacted.isRedacted(options.url) ? Redacted.value(options.url) : options.url
  if (typeof url !== "string" || !/^rediss?:\/\//.test(url)) {
    // The URL may hold a password.
    throw new InvalidOptions({ option: "url", value: "<redacted>", reason: "must begin with redis:// or rediss://" })
  }
  return () => new Redis(url, { enableOfflineQueue: false, maxRetriesPerRequest: 0, lazyConnect: true })
}

/** Connects in the background and again and again; until it is connected, calls fail. */
const connection = (connect: () => Redis) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const redis = connect()
      // Without a listener an error would end the process. Calls fail by themselves.
      redis.on("error", () => {})
      if (redis.status === "wait") await redis.connect().catch(() => {})
      return redis
    }),
    (redis) => Effect.sync(() => redis.disconnect())
  )

const attempt = <A>(operation: SessionStore.StoreError["operation"], run: () => Promise<A>) =>
  Effect.tryPromise({
    try: run,
    // The error's own fields hold the command's arguments, and they are secrets.
    catch: (error) =>
      new SessionStore.StoreError({
        operation,
        store: "Redis",
        cause: error instanceof Error ? error.name : "an error"
      })
  })

/** ioredis subscribes again by itself when it is connected again. */
const noticesOf = (redis: Redis, channel: string): Stream.Stream<string> =>
  Stream.asyncPush<string>((emit) =>
    Effect.acquireRelease(
      Effect.promise(async () => {
        const hear = (_: string, key: string) => void emit.single(key)
        redis.on("message", hear)
        const subscribe = () => redis.subscribe(channel).catch(() => {})
        redis.on("ready", subscribe)
        await subscribe()
        return { hear, subscribe }
      }),
      ({ hear, subscribe }) => Effect.sync(() => redis.off("message", hear).off("ready", subscribe))
    ), { bufferSize: 256, strategy: "sliding" })
