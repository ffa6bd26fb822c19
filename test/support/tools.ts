/** Programs that a machine may lack. A test that needs one is skipped without it, and the reporter says so. */
import { accessSync, constants } from "node:fs"
import { delimiter, join } from "node:path"
import { form } from "./form.js"

const isProgram = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Debian keeps servers in a folder that is on the path of its administrator only. */
const onPath = (...names: ReadonlyArray<string>): string | undefined =>
  (process.env["PATH"] ?? "").split(delimiter).concat("/usr/sbin").flatMap((folder) =>
    names.map((name) => join(folder, name))
  ).find(isProgram)

/** The browser that `CHROMIUM` names, or else the first on the path. */
export const browser: string | undefined = [process.env["CHROMIUM"]].find((path) => path && isProgram(path))
  ?? onPath("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

/** The `openssl` command line. */
export const openssl: string | undefined = onPath("openssl")

/** The server of Redis, for tests that restart one. */
export const redisServer: string | undefined = onPath("redis-server")

/** The servers of NATS and of MQTT. */
export const natsServer: string | undefined = onPath("nats-server")
export const mosquitto: string | undefined = onPath("mosquitto")

/** A line for each program that is missing. */
export const missing: ReadonlyArray<string> = [
  ...browser === undefined
    ? ["skipped, no Chromium is on the path or named by CHROMIUM: the bundle and a sign-in in a browser"]
    : [],
  ...form !== "quick" && redisServer === undefined
    ? ["skipped, no redis-server is on the path: a Redis that is restarted"]
    : [],
  ...natsServer === undefined ? ["skipped, no nats-server is on the path: the example of NATS against its server"] : [],
  ...mosquitto === undefined ? ["skipped, no mosquitto is on the path: the example of MQTT against this server"] : [],
  ...openssl === undefined ? ["skipped, no openssl is on the path: tickets and sessions of OpenSSL's own server"] : []
]
