/** Database servers on the loopback that belong to one test, which may kill and start them again. */
import * as MysqlClient from "@effect/sql-mysql2/MysqlClient"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { Redis } from "ioredis"
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { chownSync, mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import type { StoreSettings } from "./stores.js"
import { mariadbServer, postgresServer, redisServer } from "./tools.js"

export interface OwnServer {
  readonly settings: StoreSettings
  readonly directory: string
  /** `kill -9`. */
  readonly kill: Effect.Effect<void>
  /** Stops the server properly, as an operator does; done when the process is gone. */
  readonly stop: Effect.Effect<void>
  /** Starts the server; done when it answers. */
  readonly start: Effect.Effect<void>
}

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { readonly port: number }
      server.close(() => resolve(port))
    })
  })

/** A server that keeps its data in its own folder. Its programs refuse to run as root, so they run as `user`. */
const own = (
  { environment, launch, prepare, stopBy, untilReady, user }: {
    readonly environment?: Readonly<Record<string, string>>
    readonly user?: { readonly uid: number; readonly gid: number } | undefined
    readonly prepare: (directory: string) => void
    readonly launch: (directory: string, port: number) => readonly [program: string, ...options: ReadonlyArray<string>]
    readonly untilReady: (port: number) => Effect.Effect<unknown, unknown>
    readonly stopBy: NodeJS.Signals
  }
): Effect.Effect<Omit<OwnServer, "settings"> & { readonly port: number }, never, Scope.Scope> =>
  Effect.gen(function*() {
    const port = yield* Effect.promise(freePort)
    const directory = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const directory = mkdtempSync(join(tmpdir(), "holdfast-"))
        if (user !== undefined) chownSync(directory, user.uid, user.gid)
        return directory
      }),
      (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
    )
    prepare(directory)
    let child: ChildProcess | undefined
    const start = Effect.suspend(() => {
      const [program, ...options] = launch(directory, port)
      child = spawn(program, options, {
        stdio: "ignore",
        cwd: directory,
        env: { ...process.env, ...environment },
        ...user
      })
      return Effect.asVoid(Effect.orDie(Effect.retry(
        untilReady(port),
        Schedule.intersect(Schedule.spaced("100 millis"), Schedule.recurs(600))
      )))
    })
    const endBy = (signal: NodeJS.Signals) =>
      Effect.promise(async () => {
        if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
        const exit = once(child, "exit")
        child.kill(signal)
        await exit
      })
    yield* Effect.acquireRelease(start, () => endBy("SIGKILL"))
    return { port, directory, start, kill: endBy("SIGKILL"), stop: endBy(stopBy) }
  })

const answersSql = (layer: ReturnType<typeof PgClient.layer> | ReturnType<typeof MysqlClient.layer>) =>
  Effect.provide(Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT 1`), layer)

export const ownPostgres: Effect.Effect<OwnServer, never, Scope.Scope> = Effect.gen(function*() {
  const { user } = postgresServer!
  const server = yield* own({
    user,
    prepare: (directory) =>
      execFileSync(
        join(dirname(postgresServer!.path), "initdb"),
        ["--pgdata", join(directory, "data"), "--auth", "trust", "--username", "root", "--no-sync"],
        { stdio: "ignore", cwd: directory, ...user }
      ),
    launch: (directory, port) => [
      postgresServer!.path,
      "-D",
      join(directory, "data"),
      "-p",
      String(port),
      "-k",
      directory,
      "-c",
      "listen_addresses=127.0.0.1"
    ],
    untilReady: (port) =>
      answersSql(PgClient.layer({ url: Redacted.make(`postgres://root@127.0.0.1:${port}/postgres`) })),
    // Sessions are cut, and their transactions are rolled back.
    stopBy: "SIGINT"
  })
  const url = `postgres://root@127.0.0.1:${server.port}/postgres`
  return { ...server, settings: { kind: "postgres", url, table: "holdfast_sessions" } }
})

/** `zone` is the server's time zone, as the variable `TZ` has it. */
export const ownMariadbIn = (zone: string): Effect.Effect<OwnServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { install, path, user } = mariadbServer!
    const server = yield* own({
      environment: { TZ: zone },
      user,
      prepare: (directory) =>
        execFileSync(
          install,
          ["--no-defaults", `--datadir=${join(directory, "data")}`, "--auth-root-authentication-method=normal"],
          { stdio: "ignore", cwd: directory, ...user }
        ),
      launch: (directory, port) => [
        path,
        "--no-defaults",
        `--datadir=${join(directory, "data")}`,
        `--socket=${join(directory, "socket")}`,
        "--bind-address=127.0.0.1",
        `--port=${port}`,
        `--pid-file=${join(directory, "pid")}`
      ],
      untilReady: (port) =>
        answersSql(MysqlClient.layer({ url: Redacted.make(`mysql://root@127.0.0.1:${port}/test`) })),
      stopBy: "SIGTERM"
    })
    const url = `mysql://root@127.0.0.1:${server.port}/test`
    return { ...server, settings: { kind: "mysql", url, table: "holdfast_sessions" } }
  })

export const ownMariadb = ownMariadbIn("UTC")

export const ownRedis = (...options: ReadonlyArray<string>): Effect.Effect<OwnServer, never, Scope.Scope> =>
  Effect.map(
    own({
      prepare: () => {},
      launch: (directory, port) => [
        redisServer!,
        "--port",
        String(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        directory,
        "--save",
        "",
        ...options
      ],
      untilReady: (port) =>
        Effect.tryPromise(async () => {
          const redis = new Redis(port, { retryStrategy: null as never, maxRetriesPerRequest: 0, lazyConnect: true })
          redis.on("error", () => {})
          try {
            if (await redis.ping() !== "PONG") throw new Error("not ready")
          } finally {
            redis.disconnect()
          }
        }),
      stopBy: "SIGTERM"
    }),
    (server) => ({
      ...server,
      settings: { kind: "redis", url: `redis://127.0.0.1:${server.port}`, prefix: "holdfast:" }
    })
  )
