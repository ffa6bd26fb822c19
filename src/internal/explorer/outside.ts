/**
 * Notices what an effect starts outside Effect's fibers: promises, timers, I/O. None of these can end during a run,
 * since a run is synchronous.
 *
 * This needs Node's `async_hooks`. On other platforms nothing is noticed, and an effect that waits for such work looks
 * like a deadlock.
 */

interface Resource {
  readonly type: string
  /** Where the resource was started. `undefined` for timers: there are many, and a console starts none. */
  readonly origin: Error | undefined
  readonly object: {
    /** Only timers have this field. */
    readonly _idleTimeout?: number
    readonly _destroyed?: boolean
    /** Only jobs on another thread have this field, their callback. */
    readonly ondone?: unknown
  }
}

export class Outside {
  private resources: Array<Resource> = []
  private readonly hook = globalThis.process?.getBuiltinModule?.("node:async_hooks")?.createHook({
    init: (_id, type, _trigger, object: Resource["object"]) => {
      this.resources.push({ type, object, origin: isTimer(type) ? undefined : here() })
    }
  })

  /** Runs synchronous work under observation. */
  observe<A>(work: () => A): A {
    this.hook?.enable()
    try {
      return work()
    } finally {
      this.hook?.disable()
    }
  }

  /** Called when a run begins or is over. Clears the timers by which `Effect.never` keeps a process alive. */
  forget(): void {
    if (this.resources.length === 0) return
    for (const { object } of this.resources) {
      if (isForEver(object)) clearInterval(object as unknown as NodeJS.Timeout)
    }
    this.resources = []
  }

  /** Node's names of the resources that may still call back; `isLast`: nothing else can happen any more. */
  started(isLast: boolean): ReadonlyArray<string> {
    if (this.resources.length === 0) return []
    const pending = this.resources.filter((resource) =>
      !isForEver(resource.object) && !isOver(resource) && (isLast || !isIncidental(resource)) && !isOfConsole(resource)
    )
    return [...new Set(pending.map(({ type }) => type))]
  }
}

const isForEver = ({ _idleTimeout }: Resource["object"]): boolean => _idleTimeout === 2 ** 31 - 1

const isTimer = (type: string): boolean => type === "Timeout" || type === "Immediate"

/**
 * Whether the resource is a timer that was cleared, a job that was done immediately, or a function that only keeps its
 * context.
 */
const isOver = ({ object, type }: Resource): boolean =>
  object._destroyed === true || type === "bound-anonymous-fn" || (isJob(type) && object.ondone === undefined)

const isJob = (type: string): boolean => type.endsWith("REQUEST")

/** Resources that libraries start incidentally, for which no effect waits. */
const isIncidental = ({ type }: Resource): boolean => type === "TickObject" || type === "Microtask" || type === "ZLIB"

/** A console may defer its output; no effect waits for that. */
const isOfConsole = ({ origin }: Resource): boolean =>
  origin?.stack !== undefined && /node:internal\/console|\bconsole\.\w+ /i.test(origin.stack)

const here = (): Error => {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 64
  const error = new Error("where am I")
  Error.stackTraceLimit = limit
  return error
}
