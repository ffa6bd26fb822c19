import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"

const run = promisify(execFile)

export type Algorithm = "RSA-2048" | "P-256"

/** For `localhost`. As is usual on the Web, the server shows its own certificate and that of who has signed it. */
export interface Certificate {
  /** PEM: what the client trusts. */
  readonly root: string
  /** Files: both that are shown, and each alone. */
  readonly chain: string
  readonly own: string
  readonly intermediate: string
  readonly key: string
}

const newKey: Record<Algorithm, ReadonlyArray<string>> = {
  "RSA-2048": ["rsa:2048"],
  "P-256": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
}

const configuration = `
[req]
distinguished_name = name
prompt = no
[name]
CN = localhost
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost,IP:127.0.0.1
`

export type Certificates = (algorithm: Algorithm) => Certificate

/** Made by the `openssl` command line, for as long as they are used. */
export const withCertificates = async (
  algorithms: ReadonlyArray<Algorithm>,
  use: (certificates: Certificates) => Promise<void>
): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "holdfast-"))
  try {
    writeFileSync(join(folder, "openssl.cnf"), configuration)
    const made = await Promise.all(algorithms.map((algorithm) => make(folder, algorithm)))
    await use((algorithm) => made[algorithms.indexOf(algorithm)]!)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const make = async (folder: string, algorithm: Algorithm): Promise<Certificate> => {
  const file = (name: string) => join(folder, `${algorithm}-${name}.pem`)
  const sign = (name: string, extensions: string, by?: string) =>
    run("openssl", [
      "req",
      "-x509",
      "-nodes",
      "-days",
      "2",
      "-config",
      join(folder, "openssl.cnf"),
      "-extensions",
      extensions,
      "-subj",
      `/CN=${name}`,
      "-newkey",
      ...newKey[algorithm],
      "-keyout",
      file(`${name}-key`),
      "-out",
      file(name),
      ...by === undefined ? [] : ["-CA", file(by), "-CAkey", file(`${by}-key`)]
    ])
  await sign("root", "authority")
  await sign("intermediate", "authority", "root")
  await sign("localhost", "server", "intermediate")
  writeFileSync(file("chain"), readFileSync(file("localhost"), "utf8") + readFileSync(file("intermediate"), "utf8"))
  return {
    root: readFileSync(file("root"), "utf8"),
    chain: file("chain"),
    own: file("localhost"),
    intermediate: file("intermediate"),
    key: file("localhost-key")
  }
}
