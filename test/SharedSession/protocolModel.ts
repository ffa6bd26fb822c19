/**
 * A fleet, its store and an authorization server with reuse detection, as states and steps, for a search through all
 * orders of the steps. The rows are moved by the protocol's own functions, which the search takes as a parameter, so
 * that faulty ones can be searched as well.
 */
import type { Row } from "effect-holdfast/SessionStore"
import type * as ProtocolModule from "../../src/internal/shared/protocol.js"

/** How often each fault may strike in one history, and how much there is to do. */
export interface Bounds {
  readonly processes: number
  readonly refreshes: number
  readonly ticks: number
  readonly crashes: number
  readonly losses: number
  readonly ends: number
  readonly deletions: number
  /** Whether the fleet has signed in already. */
  readonly isSignedIn: boolean
}

type Counter = "ticks" | "crashes" | "losses" | "ends" | "deletions"

interface Process {
  readonly at:
    | "idle"
    | "reading"
    | "taking"
    | "holding"
    | "extending"
    | "obtained"
    | "committing"
    | "failing"
    | "ending"
  readonly left: number
  readonly known: ProtocolModule.Known
  /** The conditional write that comes next. */
  readonly write?: { readonly expected: number | undefined; readonly row: Row } | undefined
  readonly taken?: ProtocolModule.Taken | undefined
  readonly askedAt?: number | undefined
  readonly isUncertain?: boolean | undefined
  readonly isFatal?: boolean | undefined
  readonly token?: string | undefined
}

interface State {
  readonly now: number
  readonly row: Row | undefined
  readonly processes: ReadonlyArray<Process>
  /** By sign-in: how many of its tokens were issued; negative: revoked. */
  readonly issued: ReadonlyArray<number>
  readonly presented: ReadonlyArray<string>
  readonly ended: ReadonlyArray<number>
  readonly leases: number
  readonly faults: Readonly<Record<Counter, number>>
  readonly violation?: string | undefined
}

export interface Result {
  readonly states: number
  readonly violation: string | undefined
  /** The steps that lead to the violation. */
  readonly history: ReadonlyArray<string>
}

/** In milliseconds. A lease is one tick long. */
const tick = 100

const idle = { at: "idle", write: undefined, taken: undefined, askedAt: undefined, token: undefined } as const

const familyOf = (token: string): number => Number(token.split(".")[0])

export const search = (protocol: typeof ProtocolModule, bounds: Bounds): Result => {
  const start = startOf(protocol, bounds)
  const cameFrom = new Map<string, readonly [string, string] | undefined>([[keyOf(start), undefined]])
  const open: Array<State> = [start]
  const historyOf = (key: string): ReadonlyArray<string> => {
    const steps: Array<string> = []
    for (let from = cameFrom.get(key); from !== undefined; from = cameFrom.get(from[0])) steps.unshift(from[1])
    return steps
  }
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    const key = keyOf(state)
    const violation = state.violation ?? (isQuiet(state) ? stuck(protocol, state) : undefined)
    if (violation !== undefined) return { states: cameFrom.size, violation, history: historyOf(key) }
    for (const [step, next] of steps(protocol, state)) {
      const nextKey = keyOf(next)
      if (cameFrom.has(nextKey)) continue
      cameFrom.set(nextKey, [key, step])
      open.push(next)
    }
  }
  return { states: cameFrom.size, violation: undefined, history: [] }
}

/**
 * States that no later step can distinguish have one key. It has the order of numbers, the rest of each time, and the
 * owners of names, and it does not depend on the order of the processes.
 */
const keyOf = ({ ended, faults, issued, now, presented, processes, row, violation }: State): string => {
  const versions = [
    ...new Set(
      [row, ...processes.flatMap(({ known, taken }) => [known, taken])].flatMap((of) =>
        of === undefined ? [] : [of.version, of.origin]
      )
    )
  ].sort((a, b) => a - b)
  const rank = (version: number) => version === 0 ? 0 : versions.indexOf(version) + 1
  const left = (until: number) => Math.max(0, until - now)
  const wasPresented = (token: string | null) => token === null ? "" : `${token}${presented.includes(token) ? "!" : ""}`
  const processKeys = processes.map(({ askedAt, at, isFatal, isUncertain, known, left: todo, taken, token, write }) => {
    const isCurrent = write !== undefined && write.expected === row?.revision
    return [
      at,
      todo,
      token ?? "",
      rank(known.version),
      rank(known.origin),
      wasPresented(known.value),
      isUncertain ? "u" : "",
      isFatal ? "f" : "",
      taken === undefined ? "" : `${rank(taken.version)}${rank(taken.origin)}${taken.isSignIn}`,
      taken !== undefined && row?.holder === taken.holder ? "h" : "",
      taken !== undefined && row?.committedBy === taken.holder ? "c" : "",
      askedAt === undefined ? "" : left(askedAt + tick),
      isCurrent ? left(write.row.leaseUntil) : write === undefined ? "" : "late"
    ].join()
  })
  const rowKey = row === undefined ? "" : [
    rank(row.version),
    rank(row.origin),
    wasPresented(row.value),
    row.holder === null ? "free" : left(row.leaseUntil),
    row.intent,
    row.uncertain,
    row.dead
  ].join()
  const { crashes, deletions, ends, losses, ticks } = faults
  return [
    rowKey,
    crashes,
    deletions,
    ends,
    losses,
    ticks,
    issued.join(),
    ended.join(),
    violation,
    ...processKeys.sort()
  ]
    .join(";")
}

const startOf = (protocol: typeof ProtocolModule, bounds: Bounds): State => {
  const { crashes, deletions, ends, isSignedIn, losses, processes, refreshes, ticks } = bounds
  const taken = { holder: "first", version: 0, origin: 0, isSignIn: true }
  const lease = protocol.take(undefined, { holder: "first", lease: tick, now: tick })
  const row = isSignedIn ? protocol.commit(lease, taken, { value: "0.0", lifetime: null }, tick) : undefined
  const known = row === undefined ? protocol.nothing : protocol.adopt(row, tick)
  return {
    now: 2 * tick,
    row,
    processes: Array.from({ length: processes }, () => ({ ...idle, left: refreshes, known })),
    issued: isSignedIn ? [1] : [],
    presented: [],
    ended: [],
    leases: 0,
    faults: { ticks, crashes, losses, ends, deletions }
  }
}

/** Only time can still pass: then each lease must become free by waiting alone. */
const isQuiet = ({ faults }: State): boolean => faults.ticks === 0

const stuck = (protocol: typeof ProtocolModule, state: State): string | undefined => {
  let calm: State = { ...state, faults: { ticks: Infinity, crashes: 0, losses: 0, ends: 0, deletions: 0 } }
  for (let step = 0; step < 500; step++) {
    if (calm.processes.every(({ at, left }) => at === "idle" && left === 0)) return undefined
    // The last step is the tick.
    calm = steps(protocol, calm)[0]![1]
    if (calm.violation !== undefined) return calm.violation
  }
  return "a key is stuck"
}

const steps = (protocol: typeof ProtocolModule, state: State): ReadonlyArray<readonly [string, State]> => {
  const { faults, now, processes } = state
  const next: Array<readonly [string, State]> = []
  const spend = (counter: Counter): State => ({ ...state, faults: { ...faults, [counter]: faults[counter] - 1 } })
  processes.forEach((process, i) => {
    const put = (what: string, changed: Partial<Process>, of: State = state, more: Partial<State> = {}) =>
      next.push([
        `${i}: ${what}`,
        checked({ ...of, ...more, processes: of.processes.with(i, { ...process, ...changed }) })
      ])
    if (faults.crashes > 0 && process.at !== "idle") {
      put("is killed", { ...idle, known: protocol.nothing, isUncertain: false, isFatal: false }, spend("crashes"))
    }
    stepOf(protocol, state, process, put, spend)
  })
  if (faults.deletions > 0 && state.row !== undefined) {
    next.push(["the row is deleted", { ...spend("deletions"), row: undefined, now: now + tick }])
  }
  if (faults.ticks > 0) next.push(["time passes", { ...spend("ticks"), now: now + tick }])
  return next
}

type Put = (what: string, changed: Partial<Process>, of?: State, more?: Partial<State>) => void

const served = ({ left }: Process): Partial<Process> => ({
  ...idle,
  left: left - 1,
  isUncertain: false,
  isFatal: false
})

/** The steps that one process can take. */
const stepOf = (
  protocol: typeof ProtocolModule,
  state: State,
  process: Process,
  put: Put,
  spend: (counter: Counter) => State
): void => {
  const { faults, leases, now, row } = state
  const expected = row?.revision
  switch (process.at) {
    case "idle": {
      if (process.left > 0) put("begins", { at: "reading" })
      if (faults.ends > 0 && process.left > 0) {
        put(
          "is to end",
          { at: "ending", write: { expected, row: protocol.end(row, process.known, now) } },
          spend("ends")
        )
      }
      return
    }
    case "reading": {
      const finding = protocol.look(row, process.known, now)
      switch (finding._tag) {
        case "Newer": {
          const known = protocol.adopt(finding.row, now)
          return put("adopts", finding.row.dead ? { known } : { ...served(process), known })
        }
        case "Behind":
        case "Free": {
          const holder = `h${leases}`
          const base = finding._tag === "Behind" ? protocol.restore(row, process.known, now) : row
          const { origin, value, version } = base ?? protocol.nothing
          return put(
            "asks for the lease",
            {
              at: "taking",
              askedAt: now,
              taken: { holder, version, origin, isSignIn: value === null },
              write: { expected, row: protocol.take(base, { holder, lease: tick, now }) }
            },
            state,
            { leases: leases + 1 }
          )
        }
        default:
          return
      }
    }
    case "taking":
      return write(state, process, put, spend, {
        won: { at: "holding", isUncertain: process.write!.row.uncertain },
        lost: { ...idle, at: "reading" },
        unanswered: served(process)
      })
    case "holding": {
      const askedAt = process.askedAt!
      if (protocol.mayPresent({ askedAt, lease: tick }, now)) return present(protocol, state, process, put, spend)
      const extended = protocol.extend(row, { holder: process.taken!.holder, lease: tick, now })
      return extended === undefined
        ? put("has lost the lease", { ...idle, at: "reading" })
        : put("extends", { at: "extending", askedAt: now, write: { expected, row: extended } })
    }
    case "extending": {
      const unextended = { at: "holding", askedAt: process.askedAt! - tick } as const
      return write(state, process, put, spend, { won: { at: "holding" }, lost: unextended, unanswered: unextended })
    }
    case "obtained": {
      const settlement = protocol.settle(row, process.taken!, { value: process.token!, lifetime: null }, now)
      switch (settlement._tag) {
        case "Commit":
          return put("commits", { at: "committing", write: { expected, row: settlement.row } })
        case "Committed":
        case "Superseded":
          return put(settlement._tag, { ...served(process), known: protocol.adopt(settlement.row, now) })
        case "Ended": {
          const known = protocol.adopt(settlement.row, now)
          return put("revokes", { ...served(process), known }, state, revoked(state, familyOf(process.token!)))
        }
        case "Busy":
          return
      }
    }
    case "committing":
      return write(state, process, put, spend, {
        won: { ...served(process), known: protocol.adopt(process.write!.row, now) },
        lost: { at: "obtained" },
        unanswered: { at: "obtained" }
      })
    case "failing": {
      const failed = protocol.fail(row, process.taken!.holder, {
        uncertain: process.isUncertain!,
        isFatal: process.isFatal!,
        error: "Refused",
        cooldown: 0
      }, now)
      if (failed === undefined) return put("fails", served(process))
      if (row!.revision !== process.write?.expected) {
        return put("is to fail", { write: { expected: row!.revision, row: failed } })
      }
      return write(state, process, put, spend, {
        won: process.isFatal ? { ...served(process), known: protocol.adopt(process.write.row, now) } : served(process),
        lost: { write: undefined },
        unanswered: served(process)
      })
    }
    case "ending": {
      const token = row?.value ?? process.known.value
      const won = { ...idle, known: protocol.adopt(process.write!.row, now), isUncertain: false, isFatal: false }
      const of = token === null ? state : { ...state, ended: [...state.ended, familyOf(token)] }
      return write(state, process, put, spend, {
        won,
        lost: { write: { expected, row: protocol.end(row, process.known, now) } },
        unanswered: undefined,
        more: token === null ? {} : { ...revoked(of, familyOf(token)), ended: of.ended }
      })
    }
  }
}

const write = (
  { faults, row }: State,
  { write }: Process,
  put: Put,
  spend: (counter: Counter) => State,
  outcomes: {
    readonly won: Partial<Process>
    readonly lost: Partial<Process>
    readonly unanswered: Partial<Process> | undefined
    readonly more?: Partial<State>
  }
): void => {
  const { expected, row: written } = write!
  if (row?.revision !== expected) return put("is too late", outcomes.lost)
  put("writes", { write: undefined, ...outcomes.won }, undefined, { row: written, ...outcomes.more })
  if (faults.losses > 0 && outcomes.unanswered !== undefined) {
    put("writes, unanswered", { write: undefined, ...outcomes.unanswered }, spend("losses"), { row: written })
  }
}

const revoked = ({ issued }: State, family: number): Partial<State> => ({ issued: issued.with(family, -1) })

/** The check of the lease and the presentation are one step: the protocol cannot see a pause between the two. */
const present = (
  protocol: typeof ProtocolModule,
  state: State,
  process: Process,
  put: Put,
  spend: (counter: Counter) => State
): void => {
  const { faults, issued, now, presented, row } = state
  const { known: { value: token }, taken } = process
  if (taken!.isSignIn) {
    put("signs in", { at: "obtained", token: `${issued.length}.0` }, state, { issued: [...issued, 1] })
    return
  }
  const isRival = row !== undefined && row.version === taken!.version && row.holder !== taken!.holder
  const violation = presented.includes(token!) && !process.isUncertain
    ? "a token that was presented before is presented as certain"
    : isRival && row.leaseUntil > now
    ? "two holders present together"
    : undefined
  const [family, number] = token!.split(".").map(Number) as [number, number]
  const isGood = issued[family] === number + 1
  const arrived = { presented: [...presented, token!].sort(), violation }
  const uncertain = protocol.afterFailure(process.isUncertain!, false)
  if (isGood) {
    const answered = { ...arrived, issued: issued.with(family, number + 2) }
    put("renews", { at: "obtained", token: `${family}.${number + 1}` }, state, answered)
    if (faults.losses > 0) {
      put("renews, unanswered", { at: "failing", isUncertain: uncertain, isFatal: false }, spend("losses"), answered)
    }
  } else {
    // Reuse: the server revokes all that descends from the sign-in.
    const refused = { ...arrived, ...revoked(state, family) }
    put("is refused", { at: "failing", isUncertain: uncertain, isFatal: true }, state, refused)
  }
  if (faults.losses > 0) {
    const isUncertain = protocol.afterFailure(process.isUncertain!, true)
    put("cannot connect", { at: "failing", isUncertain, isFatal: false }, spend("losses"), { violation })
  }
}

const checked = (state: State): State => {
  const { ended, row, violation } = state
  return violation === undefined && typeof row?.value === "string" && ended.includes(familyOf(row.value))
    ? { ...state, violation: "a value from before the end is current again" }
    : state
}
