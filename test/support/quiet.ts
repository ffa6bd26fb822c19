import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"

/** A layer that keeps a test's sockets from logging their openings and losses. */
export const quiet = Logger.minimumLogLevel(LogLevel.Error)
