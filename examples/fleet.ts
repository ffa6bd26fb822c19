/**
 * Four processes share one session in a directory. The authorization server accepts each refresh token once and revokes
 * everything when one comes twice. All four processes notice at the same moment that the token is dead; one of them
 * refreshes.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"

const ask = (url: string, path: string) =>
  Effect.tryPromise({
    try: async () => {
      const response = await fetch(`${url}${path}`, { method: "POST" })
      if (!response.ok) throw new Error(`status ${response.status}`)
      return await response.text()
    },
    catch: () => "refused" as const
  })

/** One process of the fleet: it signs in, waits for the signal, has its token refused, and reports its next token. */
const member = (url: string, directory: string) =>
  Effect.gen(function*() {
    const session = yield* SharedSession.make({
      key: "api",
      schema: Schema.String,
      acquire: ask(url, "/sign-in"),
      renew: (token) => ask(url, `/refresh/${token}`)
    })
    const first = yield* session.current
    process.send!("ready")
    yield* Effect.promise(() => once(process, "message"))
    const { value } = yield* session.refresh(first)
    process.send!(value)
  }).pipe(Effect.scoped, Effect.provide(FileSessionStore.layer({ directory })))

const fleet = Effect.gen(function*() {
  const directory = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped()
  const calls = { signIns: 0, refreshes: 0, twice: 0 }
  const server = createServer(({ url }, response) => {
    if (url === "/sign-in") calls.signIns++
    else if (url === `/refresh/${calls.refreshes}`) calls.refreshes++
    else calls.twice++
    response.statusCode = calls.twice > 0 ? 400 : 200
    response.end(String(calls.refreshes))
  }).listen(0, "127.0.0.1")
  yield* Effect.addFinalizer(() => Effect.sync(() => server.close()))
  yield* Effect.promise(() => once(server, "listening"))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  // This program again, as a member.
  const members = [1, 2, 3, 4].map(() => fork(process.argv[1]!, [url, directory]))
  const next = (member: ChildProcess) => Effect.promise(() => once(member, "message"))
  yield* Effect.forEach(members, next, { concurrency: "unbounded" })
  for (const member of members) member.send("your token is refused")
  const tokens = yield* Effect.forEach(members, next, { concurrency: "unbounded" })
  console.log(`${tokens.length} processes, ${new Set(tokens.map(([token]) => token)).size} token`)
  console.log(`${calls.signIns} sign-in, ${calls.refreshes} refresh, ${calls.twice} tokens presented twice`)
}).pipe(Effect.scoped, Effect.provide(NodeContext.layer))

const [url, directory] = process.argv.slice(2)
if (url === undefined || directory === undefined) await Effect.runPromise(fleet)
else await Effect.runPromise(member(url, directory)).finally(() => process.disconnect())
