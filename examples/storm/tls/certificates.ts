/**
 * An authority, and the certificate that it gives to the API, made by the `openssl` command line for this storm only;
 * and another authority, that has nothing to do with it.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"

/** The only name that the certificate is for. No address: who asks for it has to say the name. */
export const serverName = "api.storm.test"

/** All of it in PEM. */
export interface Certificates {
  readonly api: { readonly key: string; readonly cert: string }
  readonly authority: string
  readonly otherAuthority: string
}

export class NoCertificates extends Data.TaggedError("NoCertificates")<{ readonly cause: unknown }> {
  override get message(): string {
    return `there are no certificates: ${this.cause instanceof Error ? this.cause.message : String(this.cause)}`
  }
}

/** In a directory that is removed at once: what is read from it is all that is needed, and in part secret. */
export const make: Effect.Effect<Certificates, NoCertificates> = Effect.acquireUseRelease(
  Effect.tryPromise({
    try: () => mkdtemp(join(tmpdir(), "storm-")),
    catch: (cause) => new NoCertificates({ cause })
  }),
  (directory) => Effect.tryPromise({ try: () => madeIn(directory), catch: (cause) => new NoCertificates({ cause }) }),
  (directory) => Effect.promise(() => rm(directory, { recursive: true, force: true }))
)

const madeIn = async (directory: string): Promise<Certificates> => {
  const openssl = (words: string) =>
    promisify(execFile)("openssl", words.split(" "), { cwd: directory, timeout: 10_000 })
  const read = (file: string) => readFile(join(directory, file), "utf8")

  const key = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
  const authority = (name: string) =>
    openssl(`req -x509 ${key} -days 1 -subj /CN=${name} -keyout ${name}.key -out ${name}.pem`)
  await Promise.all([
    authority("authority"),
    authority("other"),
    openssl(`req -new ${key} -subj /CN=${serverName} -keyout api.key -out api.csr`),
    writeFile(join(directory, "names"), `subjectAltName=DNS:${serverName}`)
  ])
  const authorized = "-CA authority.pem -CAkey authority.key -CAcreateserial"
  await openssl(`x509 -req -in api.csr -extfile names ${authorized} -days 1 -out api.pem`)
  return {
    api: { key: await read("api.key"), cert: await read("api.pem") },
    authority: await read("authority.pem"),
    otherAuthority: await read("other.pem")
  }
}
