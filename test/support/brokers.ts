/** Servers of protocols, if the machine has them. Each runs in its own process and keeps its data in a folder. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { freePort } from "./webSocketServer.js"

export interface Broker {
  readonly url: string
  /** Kills the server as `kill -9` does, and starts it again on its port with its data. Done when it listens. */
  readonly restart: Effect.Effect<void>
}

/**
 * `configuration` is the text of the server's configuration file, for a port and a folder. The server listens for
 * WebSockets on that port.
 */
export const broker = (
  program: string,
  configuration: (port: number, folder: string) => string
): Effect.Effect<Broker, never, Scope.Scope> =>
  Effect.gen(function*() {
    const port = yield* Effect.promise(freePort)
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-"))),
      (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
    )
    const file = join(folder, "configuration")
    writeFileSync(file, configuration(port, folder))
    const started = async () => {
      const child = spawn(program, ["-c", file], { stdio: "ignore" })
      const exited = once(child, "exit")
      let hasExited = false
      child.on("exit", () => hasExited = true)
      for (;;) {
        if (hasExited) throw new Error(`${program} ended with ${child.exitCode}`)
        if (await listens(port)) return { child, exited }
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    }
    let running = yield* Effect.promise(started)
    const kill = async () => {
      running.child.kill("SIGKILL")
      await running.exited
    }
    yield* Effect.addFinalizer(() => Effect.promise(kill))
    const restart = Effect.promise(async () => {
      await kill()
      running = await started()
    })
    return { url: `ws://127.0.0.1:${port}`, restart }
  })

const listens = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = connect(port, "127.0.0.1")
    probe.on("connect", () => resolve(true))
    probe.on("error", () => resolve(false))
    probe.on("connect", () => probe.destroy())
  })
