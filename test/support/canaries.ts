/**
 * Known faults. Each is put back into a copy of a module that once had it, or might have it. A suite that does not go
 * red with these faults proves nothing.
 *
 * `import("…/src/Session.ts?canary=name")` gives the module with that fault. Only modules that have the fault, and
 * modules that import them directly or indirectly, are copied, since compiling a copy takes time.
 */
import { readFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import type { Plugin } from "vitest/config"

interface Canary {
  /** The fault in one line. */
  readonly fault: string
  /** Relative to `src`. */
  readonly edits: ReadonlyArray<{ readonly file: string; readonly from: string; readonly to: string }>
}

const edit = (file: string, from: string, to: string) => ({ file, from, to })

export const canaries = {
  "leader-interruption": {
    fault: "a waiter's interruption cancels the refresh for all",
    edits: [
      edit(
        "internal/session/chain.ts",
        "const successor = Renewal.join(renewal, this.settings.failures.reentrant)",
        `const successor = Effect.onInterrupt(Renewal.join(renewal, this.settings.failures.reentrant), () =>
      Effect.sync(() => renewal.work?.fiber?.unsafeInterruptAsFork(FiberId.none)))`
      ),
      edit(
        "internal/session/chain.ts",
        "import type * as Effect from \"effect/Effect\"",
        "import * as Effect from \"effect/Effect\"\nimport * as FiberId from \"effect/FiberId\""
      )
    ]
  },
  "straggler": {
    fault: "a straggler with the old generation starts a second refresh",
    edits: [edit(
      "internal/session/ask.ts",
      "stale.number !== head.generation?.number",
      "head.generation === undefined"
    )]
  },
  "remembered-failure": {
    fault: "a failed refresh is remembered for ever",
    edits: [edit(
      "internal/session/chain.ts",
      "if (phase._tag === \"Cooling\" && this.settings.times.monotonic() < phase.until) return phase.successor",
      "if (phase._tag === \"Cooling\") return phase.successor"
    )]
  },
  "unshared-failure": {
    fault: "a failed refresh is retried by each waiter",
    edits: [edit("internal/session/chain.ts", "const until = monotonic() + cooldown", "const until = 0")]
  },
  "early-commit": {
    fault: "the state is committed before the probe has succeeded",
    edits: [edit(
      "internal/session/obtain.ts",
      "link.candidate = { value, acquiredAt: times.now(), resources }",
      `link.candidate = { value, acquiredAt: times.now(), resources }
          if (link.generation !== undefined) Object.assign(link.generation, { value })`
    )]
  },
  "self-wait": {
    fault: "a refresh re-enters itself and waits for itself",
    edits: [
      edit(
        "internal/session/renewal.ts",
        "within !== undefined && isWaitingFor(renewal, within)",
        "1 > 2"
      ),
      edit(
        "internal/session/chain.ts",
        "if (asker?.session === this.settings.generations.mark) return this.settings.failures.reentrant",
        ""
      )
    ]
  },
  "recursion": {
    fault: "retries multiply by recursion",
    edits: [edit("Session.ts", "run({ after: generation }, refreshes - 1)", "run({ after: generation }, refreshes)")]
  },
  "stuck-waiter": {
    fault: "a waiter that is interrupted while it registers stays registered",
    edits: [edit(
      "internal/wait.ts",
      `return Effect.onInterrupt(
      Effect.async<A, E>((resume) => {
        giveUp = register(resume)
      }),
      () => Effect.sync(() => giveUp?.())
    )`,
      `return Effect.async<A, E>((resume) => {
      giveUp = register(resume)
      return Effect.sync(() => giveUp?.())
    })`
    )]
  },
  "late-registration": {
    fault: "a waiter checks its condition in one operation and registers in a later one",
    edits: [edit(
      "internal/waiters.ts",
      "    const found = waiter.look()\n    if (found !== undefined) return waiter.onFound(found)\n",
      ""
    )]
  },
  "missed-attachment": {
    fault: "a write to a platform's socket looks for an attachment in one operation and registers in a later one",
    edits: [edit(
      "internal/socket/platform.ts",
      "Effect.flatMap(this.attachment, (live)",
      // `until` checks twice before it waits.
      `Effect.flatMap(Effect.suspend(() => {
        let looks = 0
        const woken = Waiters.until(() => looks++ < 2 ? undefined : Exit.succeed(this.attached), this.whenAttached)
        return this.attached !== undefined ? Effect.succeed(this.attached) : Effect.zipRight(Effect.void, woken)
      }), (live)`
    )]
  },
  "late-publication": {
    fault: "a generation is published in a later step than the one that makes it current",
    edits: [
      edit("internal/session/chain.ts", "else this.published.offer(next.generation)\n", "\n"),
      edit(
        "internal/session/refresh.ts",
        "return Effect.zipRight(reported, ",
        `return Effect.zipRight(Effect.suspend(() => {
          chain.published.offer(exit.value.generation)
          return reported
        }), `
      )
    ]
  },
  "adopted-over": {
    fault: "a renewal overtakes a generation that was adopted meanwhile",
    edits: [edit("internal/session/refresh.ts", "if (chain.isDetached(link)) {", "if (chain.head === undefined) {")]
  },
  "late-waiter": {
    fault: "a waiter that wakes late uses a generation that has been released",
    edits: [edit(
      "internal/session/ask.ts",
      "if (chain.isUnheld(link) || !chain.isServable(link)) return this.held(restore, this.current)",
      ""
    )]
  },
  "foreign-scheduler": {
    fault: "the sessions of a map run on a scheduler that is not the map's",
    edits: [edit("internal/fork.ts", "Runtime.runFork(runtime)(", "Runtime.runFork(Runtime.defaultRuntime)(")]
  },
  "late-fork": {
    fault: "a fiber registers with its scope itself, and begins even if the scope has closed before",
    edits: [
      edit("internal/fork.ts", "{ immediate: false })", "{ scope })\n  if (1 < 2) return fiber")
    ]
  },
  "late-row": {
    fault: "a session whose `make` is interrupted stays in an Inspector and in a gauge",
    edits: [edit(
      "Session.ts",
      "const chain = yield* Effect.acquireRelease(",
      `const late = <B, R>(acquire: Effect.Effect<B>, release: (acquired: B) => Effect.Effect<void, never, R>) =>
      Effect.tap(acquire, (acquired) => Effect.addFinalizer(() => release(acquired)))
    const chain = yield* late(`
    )]
  },
  "late-share": {
    fault: "a socket whose `make` is interrupted leaves a value in a gauge",
    edits: [edit(
      "ReconnectingSocket.ts",
      "return yield* Effect.uninterruptible(Effect.gen(",
      "return yield* Effect.suspend(() => Effect.gen("
    )]
  },
  "held-after-interruption": {
    fault: "a session of a map stays in use when its caller is interrupted",
    edits: [edit(
      "internal/session/sessions.ts",
      "Effect.uninterruptibleMask((restore): Effect.Effect<Inside.HeldSession<A, E>, E0, Scope.Scope> => {",
      `Effect.suspend((): Effect.Effect<Inside.HeldSession<A, E>, E0, Scope.Scope> => {
        const restore = <B>(effect: B) => effect`
    )]
  },
  "lookup-held": {
    fault: "a caller that was interrupted while a lookup ran keeps its session in use",
    edits: [edit(
      "internal/session/sessions.ts",
      "onFailure: (interruption) => Effect.zipRight(this.letGo(entry), Effect.failCause(interruption)),",
      "onFailure: (interruption) => Effect.failCause(interruption),"
    )]
  },
  "lookup-remembered": {
    fault: "the failure of a lookup is remembered",
    edits: [edit("internal/session/sessions.ts", "      this.forget(entry)\n      return Scope", "      return Scope")]
  },
  "lock-held": {
    fault: "the lock stays held after a defect",
    edits: [edit(
      "internal/transaction/run.ts",
      "  releaseAll(transaction)\n  locals.setBack",
      "  if (Exit.isSuccess(end)) releaseAll(transaction)\n  locals.setBack"
    )]
  },
  "half-change": {
    fault: "half-changed state after a defect",
    edits: [edit(
      "internal/transaction/run.ts",
      "else eachLayer(transaction, (_, below) => below.rollBack())",
      "else commit(transaction)"
    )]
  },
  "lock-order": {
    fault: "several refs are locked in the order of their names",
    edits: [edit("internal/transaction/run.ts", "cells.toSorted((a, b) => a.order - b.order)", "cells")]
  },
  "unseen-circle": {
    fault: "nested transactions that wait for each other hang",
    edits: [edit("internal/transaction/take.ts", "transaction.places?.has(turn) === true ?", "1 < 2 ?")]
  },
  "parallel-circle": {
    fault: "earlier places in the queue are not taken into account",
    edits: [
      edit("internal/transaction/circle.ts", "asked.last?.holder ?? asked.holder!", "asked.holder!"),
      edit("internal/transaction/circle.ts", "holder: ahead?.holder ?? turn.holder!", "holder: turn.holder!")
    ]
  },
  "held-while-unwinding": {
    fault: "a transaction that a deadlock has ended holds its turns until its body has unwound",
    edits: [edit("internal/transaction/take.ts", "  dismissWaiting(transaction)\n  releaseAll(transaction)\n}", "}")]
  },
  "saved-by-its-body": {
    fault: "a transaction that a deadlock has ended succeeds if its body does",
    edits: [edit("internal/transaction/run.ts", "  if (deadlock !== undefined) return Exit.fail(deadlock)\n", "")]
  },
  "sibling-bypass": {
    fault: "sibling fibers of one transaction bypass its lock",
    edits: [edit(
      "internal/transaction/take.ts",
      "isOpen(transaction) && below.tryTake(transaction)",
      "isOpen(transaction) && (below.tryTake(transaction) || transaction.outer !== undefined)"
    )]
  },
  "repeated-circle": {
    fault: "siblings that wait for each other meet the same circle in each attempt",
    edits: [edit("TransactionalRef.ts", "known.learn(failureOf(cause))", "{}")]
  },
  "leaked-turn": {
    fault: "a turn leaks when its taker is interrupted between getting it and recording it",
    edits: [
      edit("internal/transaction/turn.ts", "    this.next = holder.turn\n    holder.turn = this\n", ""),
      edit(
        "internal/transaction/take.ts",
        "below.above ??= new Layer(below.name, below.value, below)",
        `below.above ??= (
      (below.next = transaction.turn),
      (transaction.turn = below as Layer<any>),
      new Layer(below.name, below.value, below)
    )`
      )
    ]
  },
  "two-writers": {
    fault: "two writers interleave on one connection",
    edits: [edit(
      "internal/socket/writer.ts",
      "if (current.state === \"Going\") return false",
      "if (current.state === \"Going\" && !this.hasWork) return false"
    )]
  },
  "direct-overtakes": {
    fault: "a message that is sent while there is a connection overtakes the queued ones",
    edits: [edit(
      "internal/socket/outbox.ts",
      "    this.queued.add(message)\n",
      "    this.queued = new Set(this.drain === undefined ? [...this.queued, message] : [message, ...this.queued])\n"
    )]
  },
  "requeued-at-the-tail": {
    fault: "a message whose write failed is queued behind waiting messages",
    edits: [edit(
      "internal/socket/outbox.ts",
      "this.again.add(message)",
      "this.queued.add(message)"
    )]
  },
  "kept-though-lost": {
    fault: "a message that may have arrived is sent again without acknowledgements",
    edits: [edit(
      "internal/socket/outbox.ts",
      "if (!message.isKept) this.remove",
      "if (isWritten || message.only !== undefined) this.remove"
    )]
  },
  "cumulative-though-by-id": {
    fault: "an acknowledgement of one message counts for earlier ones, although each has its own",
    edits: [edit(
      "internal/socket/outbox.ts",
      "if (this.limits.isCumulative) this.acknowledgeUpTo(last)",
      "if (last !== undefined) this.acknowledgeUpTo(last)"
    )]
  },
  "border-behind-early-messages": {
    fault: "messages that came in before the connection was ready come before its `Opened`",
    edits: [edit(
      "internal/socket/owner.ts",
      "    this.inbox.pushBorder(live.number)\n    this.inbox.pushAll(live.inbox, live.number)\n",
      "    this.inbox.pushAll(live.inbox, live.number)\n    this.inbox.pushBorder(live.number)\n"
    )]
  },
  "overflowing-backoff": {
    fault: "the backoff grows beyond the longest timer",
    edits: [edit(
      "internal/socket/policy.ts",
      "Math.min(Math.max(scheduled, least), Duration.toMillis(longestTimer))",
      "Math.max(scheduled, least)"
    )]
  },
  "restarted-backoff": {
    fault: "the backoff starts again in the middle of an outage",
    edits: [edit("internal/socket/owner.ts", "millis >= this.wiring.settings.stableAfter", "millis >= 0")]
  },
  "unreset-backoff": {
    fault: "the backoff never starts again",
    edits: [edit("internal/socket/owner.ts", "      this.retries.reset()\n", "\n")]
  },
  "late-claim": {
    fault: "the failure of a replacement is nobody's, in the step between its connection's loss and the wait for it",
    edits: [
      edit("internal/socket/replacement.ts", "    this.awaited = this.opening\n", ""),
      edit(
        "internal/socket/replacement.ts",
        "Waiters.until(() => isOver() ? Exit.void : undefined, this.whenChanged, orders.whenOrdered)",
        `Effect.suspend(() => {
      this.awaited = this.opening
      return Waiters.until(() => isOver() ? Exit.void : undefined, this.whenChanged, orders.whenOrdered)
    })`
      )
    ]
  },
  "deaf-to-the-end": {
    fault: "the reader goes on after a close frame",
    edits: [
      edit("internal/socket/reader.ts", "    if (live.failure !== undefined || live.decode", "    if (live.decode"),
      edit("internal/socket/reader.ts", "      if (live.failure !== undefined) return\n", "")
    ]
  },
  "shared-ticket": {
    fault: "one ticket is handed to two connections",
    edits: [
      edit("internal/tickets/store.ts", "      this.remove(server, newest)\n      this.count(", "      this.count("),
      edit(
        "TicketCache.ts",
        "now((at) => storeOf(self).take(key, at)))",
        `Effect.tap(now((at) => storeOf(self).take(key, at)), (taken) =>
        Effect.sync(() => taken._tag === "Some" && storeOf(self).spend(key, taken.value))))`
      ),
      edit(
        "internal/tickets/store.ts",
        "  put(key: ServerKey, ticket: Ticket, now: number): void {",
        `  spend(key: ServerKey, ticket: Ticket): void {
    const server = this.#servers.get(idOf(key))
    const at = server === undefined ? -1 : server.entries.findIndex((entry) => entry.ticket === ticket)
    if (at >= 0) this.remove(server!, at)
  }

  put(key: ServerKey, ticket: Ticket, now: number): void {`
      )
    ]
  },
  "siblings-of-a-refused": {
    fault: "older tickets of a refused ticket's key stay",
    edits: [edit(
      "internal/tickets/store.ts",
      "if (server === undefined) return\n    const place",
      "if (1 < 2) return\n    const place"
    )]
  },
  "kept-after-close": {
    fault: "a ticket that comes after the close is kept",
    edits: [edit("internal/tickets/store.ts", "if (this.isClosed || ", "if (")]
  },
  "unchecked-lease": {
    fault: "a holder that was suspended for longer than its lease still presents the token",
    edits: [
      edit("internal/shared/protocol.ts", "monotonicNow < askedAt + lease", "monotonicNow >= 0 || askedAt < lease")
    ]
  },
  "cleared-intent": {
    fault: "a failed renewal counts as one that has presented no token",
    edits: [edit("internal/shared/protocol.ts", "intent: row.value !== null && failure.uncertain", "intent: false")]
  }
} satisfies Record<string, Canary>

export type CanaryName = keyof typeof canaries

/** The text of a file of `src`, with the fault if it concerns this file. */
export const withFault = (name: CanaryName, src: string, path: string, text: string): string => {
  const { edits }: Canary = canaries[name]
  return edits
    .filter(({ file }) => resolve(src, file) === path)
    .reduce((text, { from, to }) => {
      if (text.split(from).length !== 2) {
        throw new Error(`canary ${name}: ${JSON.stringify(from)} is not in ${path} once`)
      }
      return text.replace(from, () => to)
    }, text)
}

export const canaryPlugin = (src: string): Plugin => ({
  name: "canaries",
  enforce: "pre",
  transform(code, id) {
    const [path, query = ""] = id.split("?")
    const name = new URLSearchParams(query).get("canary") as CanaryName | null
    if (name === null) return undefined
    if (!isTouched(name, src, path!)) return `export * from "${path!}"`
    return withFault(name, src, path!, code).replaceAll(
      /from "(\.[^"]+)\.js"/g,
      (_, module: string) => {
        const file = resolve(dirname(path!), `${module}.ts`)
        return `from "${file}${isTouched(name, src, file) ? `?canary=${name}` : ""}"`
      }
    )
  }
})

/** Whether a module has the fault, or imports one that does, at whatever distance. */
const isTouched = (name: CanaryName, src: string, path: string): boolean => {
  const { edits }: Canary = canaries[name]
  const touched = new Set(edits.map(({ file }) => resolve(src, file)))
  return [path, ...importedBy(path)].some((module) => touched.has(module))
}

const imported = new Map<string, ReadonlySet<string>>()

/** All modules that a module imports, at whatever distance. Types are gone when a module runs. */
const importedBy = (path: string): ReadonlySet<string> => {
  const known = imported.get(path)
  if (known !== undefined) return known
  const all = new Set<string>()
  const add = (from: string): void => {
    const imports = /^(?:import|export)(?! type\b)[^"]*? from "(\.[^"]+)\.js"/gm
    for (const [, module] of readFileSync(from, "utf8").matchAll(imports)) {
      const to = resolve(dirname(from), `${module!}.ts`)
      if (all.has(to)) continue
      all.add(to)
      add(to)
    }
  }
  add(path)
  imported.set(path, all)
  return all
}
