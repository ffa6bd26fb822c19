/** What can be asked of the storm on its command line. */
import * as Either from "effect/Either"
import { randomInt } from "node:crypto"
import { parseArgs } from "node:util"

export interface Options {
  readonly seconds: number
  readonly callers: number
  readonly seed: number
  /** How many processes share a session; 0: there is no fleet. */
  readonly processes: number
  readonly json: boolean
  /** Whether what lives is to be seen in browsers. */
  readonly view: boolean
  /** The file to write the report to. */
  readonly report?: string
}

/**
 * In milliseconds: what one renewal may take, which is more than an outage, a stall and an attempt given up together;
 * and for each caller what a busy machine needs to serve it, for after an outage they all come at once.
 */
export const longestWait = ({ callers }: Pick<Options, "callers">): number => 10_000 + 10 * callers

const numbers = {
  seconds: { fallback: () => 10, min: 1, max: 3600, about: "how long it lasts (default 10)" },
  // More would mostly measure the machine: they and the servers they load share it.
  callers: { fallback: () => 200, min: 1, max: 2000, about: "how many share one session (default 200)" },
  seed: {
    fallback: () => randomInt(1, 1_000_000),
    min: 1,
    max: 4_294_967_295,
    about: "of what is left to chance (default random)"
  },
  // One is killed, one is paused, and one goes on.
  processes: { fallback: () => 0, min: 3, max: 20, about: "how many a fleet has that shares one (default no fleet)" }
}

export const help =
  `The storm: many callers share one session, and clients hold on to a feed, while all they talk to misbehaves.

npm start -- [options]
${
    Object.entries(numbers)
      .map(([name, { about, max, min }]) => `  --${name.padEnd(9)} <${min}…${max}>`.padEnd(28) + about)
      .join("\n")
  }
  --json                    the ledger as one JSON object, and nothing else (npm start --silent -- --json)
  --view                    serves an Inspector over the callers, and one over the feed's clients
  --report <file>           leaves a page with a timeline in pictures, and the ledger
  --help                    this text

A fleet shares its session in a directory, or in the database that DATABASE_URL (PostgreSQL) or REDIS_URL names.
The exit code is 0 if every promise was held, 1 if one was broken, and 2 for an option that is not known. It is 3 if the
machine was too busy with other things to tell: no promise was seen broken, and some were not reached.`

/** `Left`: what is wrong, in one line. `"help"`: only that was asked for. */
export const parse = (args: ReadonlyArray<string>): Either.Either<Options | "help", string> => {
  const { tokens, values } = parseArgs({
    args: [...args],
    strict: false,
    tokens: true,
    options: {
      seconds: { type: "string" },
      callers: { type: "string" },
      seed: { type: "string" },
      processes: { type: "string" },
      json: { type: "boolean" },
      view: { type: "boolean" },
      report: { type: "string" },
      help: { type: "boolean" }
    }
  })

  for (const token of tokens) {
    if (token.kind === "option-terminator") continue
    const given = JSON.stringify(token.kind === "option" ? token.rawName : token.value)
    const isNumber = token.kind === "option" && Object.hasOwn(numbers, token.name)
    const isFlag = token.kind === "option" && ["json", "view", "help"].includes(token.name)
    const isFile = token.kind === "option" && token.name === "report"
    if (!isNumber && !isFlag && !isFile) {
      return Either.left(
        `${given} is not known: the options are --seconds, --callers, --seed, --processes, --json, --view, --report ` +
          "and --help"
      )
    }
    if (isFile && (token.value === undefined || token.value === "" || token.value.startsWith("--"))) {
      return Either.left("--report must name a file")
    }
    if (isFlag && token.value !== undefined) return Either.left(`${given} takes no value`)
  }
  if (values["help"] === true) return Either.right("help")

  return Either.gen(function*() {
    return {
      seconds: yield* number("seconds", values["seconds"]),
      callers: yield* number("callers", values["callers"]),
      seed: yield* number("seed", values["seed"]),
      processes: yield* number("processes", values["processes"]),
      json: values["json"] === true,
      view: values["view"] === true,
      ...typeof values["report"] === "string" && { report: values["report"] }
    }
  })
}

/** The arguments that repeat the weather. */
export const toArgs = ({ callers, processes, seconds, seed }: Options): string =>
  `--seed ${seed} --callers ${callers} --seconds ${seconds}${processes === 0 ? "" : ` --processes ${processes}`}`

const number = (name: keyof typeof numbers, given: string | boolean | undefined): Either.Either<number, string> => {
  const { fallback, max, min } = numbers[name]
  if (given === undefined) return Either.right(fallback())
  const value = typeof given === "string" && /^\d+$/.test(given) ? Number(given) : NaN
  return value >= min && value <= max
    ? Either.right(value)
    : Either.left(
      `--${name} must be a whole number from ${min} to ${max}, not ${
        given === true ? "missing" : JSON.stringify(given)
      }`
    )
}
