/** Databases that may be missing: named by the environment, or on their usual ports of this machine. */
import { connect } from "node:net"

const answers = (url: string): Promise<boolean> =>
  new Promise((resolve) => {
    const { hostname, port } = new URL(url)
    const socket = connect(Number(port), hostname, () => {
      socket.destroy()
      resolve(true)
    })
    socket.setTimeout(500, () => socket.destroy())
    socket.on("close", () => resolve(false))
    socket.on("error", () => resolve(false))
  })

const found = async (variable: string, fallback: string, start: string): Promise<string | undefined> => {
  const url = process.env[variable] || fallback
  if (await answers(url)) return url
  process.stdout.write(` skipped, nothing answers at ${new URL(url).host} (${variable}): ${start}\n`)
  return undefined
}

const look = async () => ({
  postgres: await found(
    "DATABASE_URL",
    "postgres://root@127.0.0.1:5432/test",
    "docker run -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust -e POSTGRES_USER=root -e POSTGRES_DB=test postgres"
  ),
  mysql: await found(
    "MYSQL_URL",
    "mysql://root@127.0.0.1:3306/test",
    "docker run -p 3306:3306 -e MARIADB_ALLOW_EMPTY_ROOT_PASSWORD=1 -e MARIADB_DATABASE=test mariadb"
  ),
  redis: await found("REDIS_URL", "redis://127.0.0.1:6379", "docker run -p 6379:6379 redis --appendonly yes")
})

let looked: ReturnType<typeof look> | undefined

/** The URLs of databases that answer. For each database that does not, a line says how to start it. */
export const databases = (): ReturnType<typeof look> => looked ??= look()
