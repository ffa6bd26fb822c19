import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Metric from "effect/Metric"
import * as Tracer from "effect/Tracer"

/** Runs an effect, and collects everything that can be observed of it: logs, spans with their content, metrics. */
export const watched = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const seen: Array<unknown> = []
    const logger = Logger.make(({ annotations, cause, message, spans }) => {
      seen.push(message, Cause.pretty(cause), [...annotations], [...spans])
    })
    const tracer = Tracer.make({
      span: (name, parent, context, links, startTime, kind) => {
        const attributes = new Map<string, unknown>()
        return {
          _tag: "Span",
          name,
          spanId: "0",
          traceId: "0",
          parent,
          context,
          links,
          status: { _tag: "Started", startTime },
          attributes,
          sampled: true,
          kind,
          end: (_, exit) => seen.push(name, attributes, Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""),
          attribute: (key, value) => attributes.set(key, value),
          event: (event, _, more) => seen.push(event, more),
          addLinks: () => {}
        }
      },
      context: (run) => run()
    })
    return Effect.exit(effect).pipe(
      Effect.withTracer(tracer),
      Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
      Logger.withMinimumLogLevel(LogLevel.All),
      Effect.flatMap((exit) => Effect.map(Metric.snapshot, (metrics) => ({ exit, seen: [...seen, metrics] })))
    )
  })
