/**
 * Fails if a file of `src` belongs to no shard (`shards.json`) and `unmutated.json` does not say why, or if a pattern
 * there fits no file.
 */
import { execFileSync } from "node:child_process"
import { readFileSync } from "node:fs"

const read = (name) => JSON.parse(readFileSync(new URL(name, import.meta.url), "utf8"))

/** Patterns here have `*` for a part of a name, and `{a,b}`. */
const fits = (pattern) => {
  const source = pattern
    .replace(/[.]/g, "\\.")
    .replace(/[*]/g, "[^/]*")
    .replace(/\{([^}]*)\}/g, (_, names) => `(${names.replaceAll(",", "|")})`)
  const expression = new RegExp(`^${source}$`)
  return (file) => expression.test(file)
}

const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "src", "test"], {
  encoding: "utf8"
}).split("\n")
const shards = Object.entries(read("shards.json"))
const unmutated = Object.keys(read("unmutated.json"))

const complaints = [...shards.flatMap(([, { mutate, tests }]) => [...mutate, ...tests]), ...unmutated]
  .filter((pattern) => !files.some(fits(pattern.replace(/^!/, ""))))
  .map((pattern) => `${pattern}: no file fits`)

const isMutated = (file) =>
  shards.some(([, { mutate }]) =>
    mutate.some((pattern) => !pattern.startsWith("!") && fits(pattern)(file))
    && !mutate.some((pattern) => pattern.startsWith("!") && fits(pattern.slice(1))(file))
  )
for (const file of files.filter((file) => /^src\/.*\.ts$/.test(file))) {
  const isExplained = unmutated.some((pattern) => fits(pattern)(file))
  if (isMutated(file) === isExplained) {
    complaints.push(
      `${file}: ${isExplained ? "is in a shard, and unmutated.json says why not" : "is in no shard of shards.json"}`
    )
  }
}

for (const complaint of complaints) process.stderr.write(`test/mutation: ${complaint}\n`)
process.exit(complaints.length === 0 ? 0 : 1)
