/**
 * Authorities for the loopback, and what they sign, made by the `openssl` command line. An authority is known by its
 * name, and is the same for as long as this process is.
 */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { isIP } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** All of it in PEM. */
export interface Certificate {
  readonly key: string
  readonly cert: string
  /** The certificate of who has signed it. */
  readonly ca: string
}

interface Common {
  /** The name of who signs it. `"holdfast"` by default. */
  readonly authority?: string
  /** `"P-256"` by default. */
  readonly keys?: "P-256" | "RSA-2048"
  /** For how long it is good from now on: a day by default. It has been bad for so long if this is negative. */
  readonly seconds?: number
}

export interface ServerCertificateOptions extends Common {
  /** Of hosts, and IP addresses. `["localhost", "127.0.0.1"]` by default. */
  readonly names?: ReadonlyArray<string>
}

const newKey = {
  "P-256": "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1",
  "RSA-2048": "-newkey rsa:2048"
}

const day = 24 * 60 * 60

/** A folder for as long as it takes: what is in it is secret. */
const inFolder = <A>(use: (folder: string) => A): A => {
  const folder = mkdtempSync(join(tmpdir(), "holdfast-"))
  try {
    return use(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The words of a command, and what may have spaces in it. */
const openssl = (folder: string, words: string, ...more: ReadonlyArray<string>): void => {
  execFileSync("openssl", [...words.split(" "), ...more], { cwd: folder, stdio: "pipe" })
}

const read = (folder: string, file: string): string => readFileSync(join(folder, file), "utf8")

const known = new Map<string, Certificate>()

const remembered = (key: unknown, make: () => Certificate): Certificate => {
  const name = JSON.stringify(key)
  const certificate = known.get(name) ?? make()
  known.set(name, certificate)
  return certificate
}

/** It signs itself: `ca` is `cert`. */
export const authority = (name = "holdfast"): Certificate =>
  remembered(["authority", name], () =>
    inFolder((folder) => {
      const usage = "-addext keyUsage=critical,keyCertSign,cRLSign"
      const files = "-keyout key.pem -out cert.pem"
      openssl(folder, `req -x509 -nodes ${newKey["P-256"]} -days 30 ${usage} ${files} -subj`, `/CN=${name}`)
      const cert = read(folder, "cert.pem")
      return { key: read(folder, "key.pem"), cert, ca: cert }
    }))

/** As `openssl ca` takes it: to the second, which `openssl x509 -days` is not. */
const time = (millis: number): string => new Date(millis).toISOString().replace(/[-:T]|\.\d+/g, "")

const configuration = (extensions: ReadonlyArray<string>): string =>
  [
    "[ca]",
    "default_ca = own",
    "[own]",
    "database = index.txt",
    "new_certs_dir = .",
    "rand_serial = yes",
    "unique_subject = no",
    "default_md = sha256",
    "policy = any",
    "x509_extensions = leaf",
    "[any]",
    "commonName = supplied",
    "[leaf]",
    "basicConstraints = critical,CA:FALSE",
    ...extensions,
    ""
  ].join("\n")

const signed = (commonName: string, extensions: ReadonlyArray<string>, options: Common): Certificate => {
  const { authority: by = "holdfast", keys = "P-256", seconds } = options
  const make = () =>
    inFolder((folder) => {
      const ca = authority(by)
      writeFileSync(join(folder, "ca.key.pem"), ca.key)
      writeFileSync(join(folder, "ca.cert.pem"), ca.cert)
      writeFileSync(join(folder, "index.txt"), "")
      writeFileSync(join(folder, "ca.conf"), configuration(extensions))
      openssl(folder, `req -new -nodes ${newKey[keys]} -keyout key.pem -out request.pem -subj`, `/CN=${commonName}`)
      const until = Date.now() + (seconds ?? day) * 1000
      const dates = `-startdate ${time(Math.min(until, Date.now()) - day * 1000)} -enddate ${time(until)}`
      const signer = "-config ca.conf -keyfile ca.key.pem -cert ca.cert.pem"
      openssl(folder, `ca -batch -notext ${signer} ${dates} -in request.pem -out cert.pem`)
      return { key: read(folder, "key.pem"), cert: read(folder, "cert.pem"), ca: ca.cert }
    })
  // One that is soon bad is to be so from the time that it is asked for.
  return seconds === undefined ? remembered([commonName, extensions, by, keys], make) : make()
}

export const serverCertificate = (options: ServerCertificateOptions = {}): Certificate => {
  const names = options.names ?? ["localhost", "127.0.0.1"]
  return signed(names[0]!, [
    "keyUsage = critical,digitalSignature,keyEncipherment",
    "extendedKeyUsage = serverAuth",
    `subjectAltName = ${names.map((name) => `${isIP(name) === 0 ? "DNS" : "IP"}:${name}`).join(",")}`
  ], options)
}

export const clientCertificate = (commonName: string, options: Common = {}): Certificate =>
  signed(commonName, ["keyUsage = critical,digitalSignature", "extendedKeyUsage = clientAuth"], options)
