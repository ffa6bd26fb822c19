/**
 * TLS connections that resume. Node's own agent offers one ticket again and again, so that an observer can see that the
 * connections belong to one client; this one offers each ticket once.
 */
import * as NodeTicketCache from "effect-holdfast/node/NodeTicketCache"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { once } from "node:events"
import * as Https from "node:https"
import type { AddressInfo } from "node:net"
import type { TLSSocket } from "node:tls"
import { serverCertificate } from "./certificates.js"

/** Each request on a connection of its own. */
const get = (url: string, agent: Https.Agent) =>
  Effect.async<boolean, Error>((resume) => {
    Https.get(url, { agent }, (response) => {
      const { socket } = response
      response.resume().on("end", () => resume(Effect.succeed((socket as TLSSocket).isSessionReused())))
    }).on("error", (error) => resume(Effect.fail(error)))
  })

const program = Effect.gen(function*() {
  const { ca, cert, key } = yield* Effect.promise(() => serverCertificate())
  const server = Https.createServer({ cert, key }, (_, response) => response.end("hello")).listen(0, "127.0.0.1")
  yield* Effect.addFinalizer(() => Effect.sync(() => server.close()))
  yield* Effect.promise(() => once(server, "listening"))
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`

  const cache = yield* TicketCache.make()
  const agent = yield* NodeTicketCache.agent({ cache, tls: { ca } })
  const resumed: Array<boolean> = []
  for (let n = 0; n < 6; n++) resumed.push(yield* get(url, agent))
  console.log(resumed.map((isResumed) => isResumed ? "resumed" : "whole").join(", "))
  const stats = yield* TicketCache.stats(cache)
  console.log(`${stats.offered} tickets offered, ${stats.resumed} resumed, none of them twice`)
}).pipe(
  Effect.scoped,
  // Its log says that this server, Node's own, gives no new ticket to a connection that was resumed.
  Effect.provide(Logger.remove(Logger.defaultLogger))
)

await Effect.runPromise(program)
