/**
 * A `SessionStore` in Redis, through ioredis.
 *
 * **What it guarantees.** A session is one hash without an expiry. One script changes it and notifies the other
 * processes. The store uses Redis's clock.
 *
 * **What it does not.** A Redis without an append-only file loses acknowledged writes at a restart, and a failover may
 * lose them, too: then a token may be presented twice, and the next presentation is `uncertain` if a process remembers
 * the session. `replicas` waits for copies, which makes this less likely but does not rule it out. A server that evicts
 * keys (`maxmemory-policy`) may drop the row: a process that remembers the row restores it.
 *
 * @since 0.1.0
 */

import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { Redis } from "ioredis"
import * as Check from "../internal/check.js"
import { within } from "../internal/first.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as SessionStore from "../SessionStore.js"

/**
 * How Redis is reached. The store opens two connections of its own, and closes them with its scope.
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
 * A store in Redis. Use `connect` for options that a URL cannot express, and turn the offline queue off there
 * (`enableOfflineQueue: false`): the queue would run a write long after the store has given it up.
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
      const [redis, listener] = yield* Effect.all([connection(connect), connection(connect)], { concurrency: 2 })
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
            const answer = await redis.eval(writing, 1, prefix + key, revision ?? "", row.revision, content, news, key)
            // A client with the option \`stringNumbers\` gives text.
            const isWritten = Number(answer) === 1
            if (isWritten && replicas > 0 && await redis.wait(replicas, 1000) < replicas) {
              throw new Error("too few replicas have the write")
            }
            return isWritten
          }),
        notices: yield* Stream.share(noticesOf(listener, channel), { capacity: 256, strategy: "sliding" }),
        // One connection sends all commands, one after the other.
        concurrency: 100
      })
    })
  )

type Reply = readonly [now: string, revision: string | null, content: string | null]

/** Numbers are handled as text: Lua drops digits when it prints a number. */
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
  const { prefix = "holdfast:", replicas = 0 } = Check.object("options", options)
  if (typeof prefix !== "string") {
    throw new InvalidOptions({ option: "prefix", value: prefix, reason: "must be text" })
  }
  return { prefix, replicas: Check.count("replicas", replicas, 0), connect: connectOf(options) }
}

const connectOf = (options: Options): () => Redis => {
  if ("connect" in options) return Check.kind("connect", options.connect, Predicate.isFunction, "must be a function")
  const url = Redacted.isRedacted(options.url) ? Redacted.value(options.url) : options.url
  if (typeof url !== "string" || !/^rediss?:\/\//.test(url)) {
    // The URL may hold a password.
    throw new InvalidOptions({ option: "url", value: "<redacted>", reason: "must begin with redis:// or rediss://" })
  }
  return () => new Redis(url, { enableOfflineQueue: false, maxRetriesPerRequest: 0, lazyConnect: true })
}

/** Connects in the background, and again after each loss. While there is no connection, calls fail. */
const connection = (connect: () => Redis) =>
  Effect.acquireRelease(
    attempt("open", async () => {
      const redis = connect()
      // Without a listener an `error` event would end the process. The calls themselves fail anyway.
      redis.on("error", () => {})
      return redis
    }),
    (redis) => Effect.sync(() => redis.disconnect())
  ).pipe(
    // A server that accepts connections and says nothing must not hold up the start.
    Effect.tap((redis) =>
      redis.status === "wait"
        ? within(Effect.promise(() => redis.connect().catch(() => {})), patience, () => Effect.void)
        : Effect.void
    )
  )

/** How long the start waits for the connection, in milliseconds. */
const patience = 2000

const attempt = <A>(operation: SessionStore.StoreError["operation"], run: () => Promise<A>) =>
  Effect.tryPromise({
    try: run,
    // The error's own fields hold the command's arguments, which are secrets.
    catch: (error) =>
      new SessionStore.StoreError({
        operation,
        store: "Redis",
        cause: error instanceof Error ? error.name : "an error"
      })
  })

/** ioredis subscribes again by itself after it has reconnected. */
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
