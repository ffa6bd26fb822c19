/** Fails if a line is longer than 120 characters. The formatter leaves strings and comments as long as they are. */
import { execFileSync } from "node:child_process"
import { readFileSync } from "node:fs"

const longest = 120

const files = execFileSync("git", ["ls-files", "src", "test", "bench", "examples"], { encoding: "utf8" })
  .split("\n")
  .filter((file) => /\.(ts|mts|mjs|cjs|js)$/.test(file))

const tooLong = files.flatMap((file) =>
  readFileSync(file, "utf8").split("\n").flatMap((line, at) => {
    const { length } = Array.from(line)
    return length > longest ? [`${file}:${at + 1}: ${length} characters, of ${longest} at most`] : []
  })
)

for (const line of tooLong) process.stderr.write(`${line}\n`)
process.exit(tooLong.length === 0 ? 0 : 1)
