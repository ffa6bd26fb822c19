/**
 * A token that survives a restart. The first run signs in and refreshes; the second run finds the refreshed token in an
 * encrypted file, and does not sign in.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import * as NodeKeyValueStore from "effect-holdfast/node/NodeKeyValueStore"
import * as PersistedSession from "effect-holdfast/PersistedSession"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { randomBytes } from "node:crypto"

const Tokens = Schema.Struct({ access: Schema.String, refresh: Schema.Redacted(Schema.String) })

/** The requests to the authorization server. In your program these are two requests. */
const asked: Array<string> = []
const tokens = (n: number) => ({ access: `access ${n}`, refresh: Redacted.make(`refresh ${n}`) })
const signIn = Effect.sync(() => {
  asked.push("sign in")
  return tokens(0)
})
const exchange = ({ refresh }: typeof Tokens.Type) =>
  Effect.sync(() => {
    asked.push(`exchange ${Redacted.value(refresh)}`)
    return tokens(asked.length - 1)
  })

const program = Effect.gen(function*() {
  const files = yield* FileSystem.FileSystem
  const directory = yield* files.makeTempDirectoryScoped()
  // From your secret store: 32 bytes, or their base64.
  const sessionKey = Redacted.make(new Uint8Array(randomBytes(32)))
  const session = PersistedSession.make({
    key: "api",
    schema: Tokens,
    encryptWith: sessionKey,
    acquire: signIn,
    renew: exchange
  }).pipe(Effect.provide(NodeKeyValueStore.layerFileSystem(directory)))

  yield* Effect.scoped(Effect.gen(function*() {
    const { current, refresh } = yield* session
    const { value } = yield* refresh(yield* current)
    console.log(`first life: ${value.access}`)
  }))
  // Everything that the first run had in memory is gone with its scope.
  yield* Effect.scoped(Effect.gen(function*() {
    const { current, refresh } = yield* session
    const first = yield* current
    console.log(`second life: ${first.value.access}, then ${(yield* refresh(first)).value.access}`)
  }))
  console.log(asked.join(", "))
  const [file] = yield* files.readDirectory(directory)
  const text = yield* files.readFileString(`${directory}/${file}`)
  console.log(`the file ${text.includes("refresh") ? "shows" : "hides"} the token`)
}).pipe(Effect.scoped, Effect.provide(NodeContext.layer))

await Effect.runPromise(program)
