/** The options of the storm's command line. */
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
  /** Whether Inspectors are served during the storm. */
  readonly view: boolean
  /** The file to write the report to. */
  readonly report?: string
}

/**
 * In milliseconds: the longest time of one renewal, which is more than an outage, a stall and a failed attempt
 * together; and for each caller the time that a busy machine needs to serve it, since after an outage all callers come
 * together.
 */
export const longestWait = ({ callers }: Pick<Options, "callers">): number => 10_000 + 10 * callers

const numbers = {
  seconds: { fallback: () => 10, min: 1, max: 3600, about: "how many seconds the storm lasts (default 10)" },
  // More callers would mostly measure the machine, which the callers and the servers share.
  callers: { fallback: () => 200, min: 1, max: 2000, about: "how many callers share one session (default 200)" },
  seed: {
    fallback: () => randomInt(1, 1_000_000),
    min: 1,
    max: 4_294_967_295,
    about: "the seed of all random faults (default random)"
  },
  // One process is killed, one is paused, and one goes on.
  processes: {
    fallback: () => 0,
    min: 3,
    max: 20,
    about: "how many processes a fleet has, sharing a session (default none)"
  }
}

export const help =
  `The storm: many callers share one session, and clients keep a feed open, while servers and network misbehave.

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
The exit code is 0 if every promise was kept, 1 if one was broken, and 2 for an option that is not known. It is 3 if the
machine was too busy to judge: no promise was broken, and some were not reached.`

/** `Left`: what is wrong, in one line. `"help"`: the text was asked for. */
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

/** The arguments that repeat the same faults. */
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
