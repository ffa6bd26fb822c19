import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"

/** A layer under which the sockets of a test log nothing of their coming and going. */
export const quiet = Logger.minimumLogLevel(LogLevel.Error)
