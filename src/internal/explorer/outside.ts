/**
 * Notices what an effect starts outside Effect's fibers: promises, timers, I/O. Nothing of that can come to an end
 * while a run goes on, which is synchronous.
 *
 * Node's `async_hooks` tell. Elsewhere nothing is noticed, and what waits for the outside looks like a deadlock.
 */
export class Outside {
  /** What was started since the last `forget`, by Node's names for it. */
  readonly started = new Set<string>()
  private readonly hook = globalThis.process?.getBuiltinModule?.("node:async_hooks")?.createHook({
    init: (_id, type, _trigger, resource) => {
      if (!isForEver(resource) && !isOfConsole()) this.started.add(type)
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

  forget(): void {
    if (this.started.size > 0) this.started.clear()
  }
}

/** The timer by which `Effect.never` keeps a process alive never fires. */
const isForEver = (resource: { readonly _idleTimeout?: number }): boolean => resource._idleTimeout === 2 ** 31 - 1

/** Writing to a console may defer its output; nobody waits for that. */
const isOfConsole = (): boolean => {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 64
  const { stack } = new Error("where am I")
  Error.stackTraceLimit = limit
  return stack !== undefined && /node:internal\/console|\bconsole\.\w+ /i.test(stack)
}
