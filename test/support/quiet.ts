import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"

/** A layer with which the sockets of a test do not log their openings and losses. */
export const quiet = Logger.minimumLogLevel(LogLevel.Error)
