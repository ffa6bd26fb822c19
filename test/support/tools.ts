/**
 * Programs that may be missing on a machine. A test that needs a missing one is skipped, and the reporter says so. The
 * quick form uses none of them, so that it has the same result on every machine.
 */
import { accessSync, constants, existsSync, readdirSync, readFileSync } from "node:fs"
import { networkInterfaces } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { form } from "./form.js"

const isProgram = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** The first path of a program, in the forms that use programs. */
const found = (...paths: ReadonlyArray<string>): string | undefined =>
  form === "quick" ? undefined : paths.find(isProgram)

/** Debian installs servers in a folder that is only on the administrator's path. */
const onPath = (...names: ReadonlyArray<string>): string | undefined =>
  found(
    ...(process.env["PATH"] ?? "").split(delimiter).concat("/usr/sbin").flatMap((folder) =>
      names.map((name) => join(folder, name))
    )
  )

/** The browser that `CHROMIUM` names, or else the first on the path. */
export const browser: string | undefined = found(process.env["CHROMIUM"] ?? "")
  ?? onPath("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

/** The `openssl` command line. */
export const openssl: string | undefined = onPath("openssl")

/** The server of Redis, for tests that restart one. */
export const redisServer: string | undefined = onPath("redis-server")

/** The servers of NATS and of MQTT. */
export const natsServer: string | undefined = onPath("nats-server")
export const mosquitto: string | undefined = onPath("mosquitto")

/** The user that a program runs as; `undefined`: the same as this process. */
export interface User {
  readonly uid: number
  readonly gid: number
}

/** Database servers refuse to run as root, and need a user that exists on the machine. */
const userFor = (...names: ReadonlyArray<string>): User | undefined | "none" => {
  if (process.getuid?.() !== 0) return undefined
  const users = new Map(
    readFileSync("/etc/passwd", "utf8").split("\n").map((line) => {
      const [name, , uid, gid] = line.split(":")
      return [name, { uid: Number(uid), gid: Number(gid) }]
    })
  )
  for (const name of names) {
    const user = users.get(name)
    if (user !== undefined) return user
  }
  return "none"
}

/** Debian keeps PostgreSQL's programs off the path. */
const debianPostgres = (): string | undefined => {
  try {
    const root = "/usr/lib/postgresql"
    return found(...readdirSync(root).map((version) => join(root, version, "bin", "postgres")))
  } catch {
    return undefined
  }
}

const lookForPostgres = (): { readonly path: string; readonly user: User | undefined } | undefined => {
  const path = onPath("postgres") ?? debianPostgres()
  const user = userFor("postgres", "nobody")
  return path === undefined || user === "none" || !isProgram(join(dirname(path), "initdb")) ? undefined : { path, user }
}

const lookForMariadb = ():
  | { readonly path: string; readonly install: string; readonly user: User | undefined }
  | undefined =>
{
  const path = onPath("mariadbd")
  const install = onPath("mariadb-install-db")
  const user = userFor("mysql", "nobody")
  return path === undefined || install === undefined || user === "none" ? undefined : { path, install, user }
}

/** The server of PostgreSQL, with the `initdb` beside it, for tests that restart one. */
export const postgresServer = lookForPostgres()

/** The server of MariaDB, for tests that restart one. */
export const mariadbServer = lookForMariadb()

/** The loopback address of IPv6. */
export const hasIpv6: boolean = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === "::1")
)

/** Whether the system can distinguish one start of the host from another. */
export const hasBootId = existsSync("/proc/sys/kernel/random/boot_id")

const missingPrograms = [
  ...browser === undefined
    ? ["skipped, no Chromium is on the path or named by CHROMIUM: the bundle and a sign-in in a browser"]
    : [],
  ...redisServer === undefined ? ["skipped, no redis-server is on the path: a Redis that is restarted"] : [],
  ...natsServer === undefined ? ["skipped, no nats-server is on the path: the example of NATS against its server"] : [],
  ...mosquitto === undefined ? ["skipped, no mosquitto is on the path: the example of MQTT against this server"] : [],
  ...postgresServer === undefined
    ? ["skipped, no postgres and initdb are here, or no user to run them as: a PostgreSQL that is restarted"]
    : [],
  ...mariadbServer === undefined
    ? ["skipped, no mariadbd and mariadb-install-db are here, or no user to run them as: a MariaDB that is restarted"]
    : [],
  ...openssl === undefined ? ["skipped, no openssl is on the path: tickets and sessions of OpenSSL's own server"] : []
]

/** A line for each thing that is missing. */
export const missing: ReadonlyArray<string> = [
  ...form === "quick" ? [] : missingPrograms,
  ...hasIpv6 ? [] : ["skipped, the loopback has no ::1: a redirect to localhost by either address"],
  ...hasBootId ? [] : ["skipped, the system does not tell when the host was started: the clock of a store of files"]
]
