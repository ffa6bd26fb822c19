/**
 * Goes through the schedules of a space, once each. A run shows at which places the next run can depart from it. So a
 * schedule's children are the schedule itself with one departure added after its last.
 */
import type { Lane, Preemption, Run, Strategy } from "./run.js"
import { type Departure, type Schedule, word } from "./schedule.js"
import { type Place, spread } from "./spread.js"
import { Following } from "./strategies.js"

/** Which schedules are searched. They come in the order of their number of preemptions. */
export interface Space {
  readonly seed: number
  /** The largest number of preemptions. */
  readonly preemptions: number
  /** Whether the space also has all orders of the ready fibers. */
  readonly picks: boolean
  /**
   * The space also has each schedule with one event at each operation: the interruption of each marked fiber that has
   * not ended, or time that passes to the next timer.
   */
  readonly event: "interrupt" | "timer" | undefined
}

/**
 * A run that a search asks for. `isNew` says that the run is one of the search's schedules, and not made only to count
 * them.
 */
export interface Asked {
  readonly strategy: Strategy
  readonly isNew: boolean
}

/** How many departures the plain run offers, and which of these a run has made. */
export class Coverage {
  readonly places: number
  readonly tried = new Set<string>()
  /** Whether places have had too many fibers to try all of them. */
  isCrowded = false
  private readonly all: ReadonlyArray<Place>
  private words: ReadonlySet<string> | undefined
  private readonly kinds: ReadonlySet<Departure["kind"]>

  constructor(all: ReadonlyArray<Place>) {
    this.all = all
    this.places = all.reduce((sum, { departures }) => sum + departures.length, 0)
    this.kinds = new Set(all.flatMap(({ departures }) => departures.map(({ kind }) => kind)))
  }

  /** Records the departures of a run that the plain run offers, too. */
  note(departures: ReadonlyArray<Departure>): void {
    this.words ??= new Set(this.all.flatMap(({ departures }) => departures.map(word)))
    for (const departure of departures) {
      // Skipped early, since a random run has hundreds of picks.
      if (!this.kinds.has(departure.kind)) continue
      const made = word(departure)
      if (this.words.has(made)) this.tried.add(made)
    }
  }
}

/**
 * All schedules that begin with `prefix`, in the order of their departures in a run, or only the first `limit` of them.
 * Returns whether these were all. `plain`, if it is given, is the plain run, which was made before: it is not asked for
 * again, but it counts towards the limit.
 */
export function* systematically(
  space: Space,
  { coverage = new Coverage([]), limit = Infinity, plain, prefix = [] }: {
    readonly coverage?: Coverage
    readonly limit?: number
    readonly plain?: Survey
    readonly prefix?: ReadonlyArray<Departure>
  } = {}
): Generator<Asked, boolean> {
  const walk = new Walk(space, plain, coverage, prefix, false)
  let left = limit
  for (let preemptions = 0; preemptions <= space.preemptions; preemptions++) {
    const allowance = allowanceOf(space, preemptions)
    if (left === 0) return (yield* walk.size(prefix, allowance, 0)) === 0
    const made = yield* walk.below(prefix, allowance, left)
    // If no schedule has this number of preemptions, no schedule has more.
    if (made === 0) break
    left -= made
    if (walk.isCut) return false
  }
  return !coverage.isCrowded
}

/**
 * All schedules, or only `limit` of them. If the limit leaves some out, or if `mayStop` says that the caller may stop
 * at any time, the schedules are ordered so that the first n, for every n, are spread evenly over the whole run.
 * `plain` and the result are as in `systematically`.
 *
 * Schedules with fewer preemptions come first. If there are more schedules with one number of preemptions than the
 * limit still allows, half of the rest of the limit is kept for larger numbers.
 */
export function* evenly(
  space: Space,
  { coverage, limit, mayStop, plain }: {
    readonly coverage: Coverage
    readonly limit: number
    readonly mayStop: boolean
    readonly plain: Survey
  }
): Generator<Asked, boolean> {
  let left = limit
  let isComplete = true
  for (let preemptions = 0; preemptions <= space.preemptions; preemptions++) {
    const inOrder = new Walk(space, plain, coverage, [], false)
    const allowance = allowanceOf(space, preemptions)
    const isAll: boolean = isComplete && (yield* inOrder.size([], allowance, left)) <= left
    const walk = isAll && !mayStop ? inOrder : new Walk(space, plain, coverage, [], true)
    const quota = isAll ? Infinity : preemptions < space.preemptions ? Math.ceil(left / 2) : left
    const made = yield* walk.below([], allowance, quota)
    left -= made
    isComplete &&= isAll
    if (made === 0) break
  }
  return isComplete && !coverage.isCrowded
}

/** How many more departures a schedule may make. */
interface Allowance {
  readonly preemptions: number
  readonly events: number
}

const allowanceOf = (space: Space, preemptions: number): Allowance => ({
  preemptions,
  events: space.event === undefined ? 0 : 1
})

/** The kinds of departures that a schedule of the space may make next. */
const offersOf = ({ event, picks }: Space, { events, preemptions }: Allowance): ReadonlySet<Offer> => {
  const offers = new Set<Offer>()
  if (picks) offers.add("pick")
  if (event !== undefined && events > 0) offers.add(event)
  if (preemptions > 0) offers.add("short")
  // If all orders of the fibers are tried, long suspensions are among them.
  if (preemptions > 0 && !picks) offers.add("long")
  return offers
}

/** The kinds of departures with which a schedule of the space may begin. */
export const firstOffersOf = (space: Space): ReadonlySet<Offer> =>
  offersOf(space, allowanceOf(space, space.preemptions))

class Walk {
  /** Whether a quota has left schedules out. */
  isCut = false
  private readonly space: Space
  private readonly plain: Survey | undefined
  private readonly coverage: Coverage
  private readonly prefix: ReadonlyArray<Departure>
  private readonly isSpread: boolean

  constructor(
    space: Space,
    plain: Survey | undefined,
    coverage: Coverage,
    prefix: ReadonlyArray<Departure>,
    isSpread: boolean
  ) {
    this.space = space
    this.plain = plain
    this.coverage = coverage
    this.prefix = prefix
    this.isSpread = isSpread
  }

  /** Whether a schedule makes no further departure. */
  private isLast({ events, preemptions }: Allowance): boolean {
    return events === 0 && preemptions === 0 && !this.space.picks
  }

  private after(allowance: Allowance, { kind }: Departure): Allowance {
    return {
      preemptions: allowance.preemptions - (kind === "preempt" ? 1 : 0),
      events: allowance.events - (kind === this.space.event ? 1 : 0)
    }
  }

  private *ask(strategy: Strategy, departures: ReadonlyArray<Departure>, isNew: boolean): Generator<Asked, void> {
    yield { strategy, isNew }
    if (departures.length === this.prefix.length + 1) this.coverage.tried.add(word(departures.at(-1)!))
  }

  /** The places after the schedule's last departure at which its run can depart once more. */
  private *placesAfter(
    departures: ReadonlyArray<Departure>,
    allowance: Allowance,
    isNew: boolean
  ): Generator<Asked, ReadonlyArray<Place>> {
    const offers = offersOf(this.space, allowance)
    if (departures.length === 0 && this.plain !== undefined) {
      this.coverage.isCrowded ||= this.plain.isCrowded
      return this.plain.placesFor(offers)
    }
    const strategy = new Enumerating({ seed: this.space.seed, departures }, offers)
    yield* this.ask(strategy, departures, isNew)
    this.coverage.isCrowded ||= strategy.isCrowded
    return strategy.places
  }

  /**
   * Runs at most `quota` of the schedules that begin with `departures` and make exactly the allowed number of further
   * preemptions. Returns how many were run. In a spread walk, each possible next departure has an equal share of the
   * quota.
   */
  *below(departures: ReadonlyArray<Departure>, allowance: Allowance, quota: number): Generator<Asked, number> {
    if (this.isLast(allowance)) {
      if (departures.length > 0 || this.plain === undefined) {
        yield* this.ask(new Following({ seed: this.space.seed, departures }), departures, true)
      }
      return 1
    }
    const isFirst = departures.length === this.prefix.length
    const isWhole = allowance.preemptions === 0
    const places = yield* this.placesAfter(departures, allowance, isWhole)
    let made = isWhole ? 1 : 0
    const next = this.isSpread && (isFirst || quota < Infinity)
      ? spread(places, this.space.seed, quota)
      : inTurn(places, this.space)
    for (const [index, departure] of next.entries()) {
      if (made >= quota) {
        this.isCut ||= (yield* this.sizeOf(next.slice(index), departures, allowance, 0)) > 0
        break
      }
      const share = this.isSpread ? Math.ceil((quota - made) / (next.length - index)) : quota - made
      made += yield* this.below([...departures, departure], this.after(allowance, departure), share)
    }
    return made
  }

  /**
   * How many schedules `below` would run without a quota; a number above `most` only says that there are more than
   * `most`.
   */
  *size(departures: ReadonlyArray<Departure>, allowance: Allowance, most: number): Generator<Asked, number> {
    const own = allowance.preemptions === 0 ? 1 : 0
    if (this.isLast(allowance) || own > most) return own
    const places = yield* this.placesAfter(departures, allowance, false)
    return own + (yield* this.sizeOf(inTurn(places, this.space), departures, allowance, most - own))
  }

  private *sizeOf(
    next: ReadonlyArray<Departure>,
    departures: ReadonlyArray<Departure>,
    allowance: Allowance,
    most: number
  ): Generator<Asked, number> {
    let size = 0
    for (const departure of next) {
      size += yield* this.size([...departures, departure], this.after(allowance, departure), most - size)
      if (size > most) break
    }
    return size
  }
}

/** A kind of departure. Long and short preemptions are two kinds. */
export type Offer = "long" | "short" | "pick" | "interrupt" | "timer"

const offerOf = (departure: Departure): Offer =>
  departure.kind === "preempt" ? (departure.long ? "long" : "short") : departure.kind

/** Follows a schedule, and records at which places after its last departure further departures are possible. */
class Enumerating extends Following {
  readonly places: Array<Place> = []
  /** Whether some of the fibers that could run next have been left out, because there were too many. */
  isCrowded = false
  private readonly offers: ReadonlySet<Offer>

  constructor(schedule: Pick<Schedule, "departures" | "seed">, offers: ReadonlySet<Offer>) {
    super(schedule)
    this.offers = offers
  }

  protected siteHere(): string | undefined {
    return undefined
  }

  override atOperation(run: Run, lane: Lane): Preemption | undefined {
    if (this.left > 0) return super.atOperation(run, lane)
    const { offers } = this
    const place = { fiber: lane.name, at: lane.operations }
    const departures: Array<Departure> = []
    if (offers.has("interrupt")) {
      for (const { fiber, name: to } of run.victims) {
        if (fiber!.unsafePoll() !== null) continue
        departures.push(
          { kind: "interrupt", ...place, to, now: false },
          { kind: "interrupt", ...place, to, now: true }
        )
      }
    }
    if (offers.has("timer") && run.hasTimers) {
      departures.push({ kind: "timer", ...place, now: false }, { kind: "timer", ...place, now: true })
    }
    if (run.isContended) {
      for (const { name: to } of this.sampleOf(run.others, place.at)) {
        if (offers.has("long")) departures.push({ kind: "preempt", ...place, to, long: true })
        if (offers.has("short")) departures.push({ kind: "preempt", ...place, to, long: false })
      }
    }
    if (departures.length > 0) this.places.push({ departures, site: this.siteHere() })
    return undefined
  }

  /** All fibers, or some of a crowd: others at each operation. */
  private sampleOf(lanes: ReadonlyArray<Lane>, at: number): ReadonlyArray<Lane> {
    const { length } = lanes
    if (length <= crowd) return lanes
    this.isCrowded = true
    return Array.from({ length: sample }, (_, index) => lanes[(Math.floor(index * length / sample) + at) % length]!)
  }

  override atPick(run: Run, paused: Lane | undefined): Lane {
    if (this.left > 0) return super.atPick(run, paused)
    if (this.offers.has("pick") && paused !== undefined) {
      const { name: fiber, operations: at, pauses: pause } = paused
      const others = this.sampleOf(run.ready.filter((lane) => lane !== run.plain), at)
      const departures = others.map(({ name: to }): Departure => ({ kind: "pick", fiber, at, pause, to }))
      this.places.push({ departures, site: undefined })
    }
    return run.plain
  }
}

/** Beyond so many fibers, the departures of one run would take seconds, and gigabytes. */
const crowd = 128

/** How many fibers of a crowd are tried at each place. */
const sample = 32

/**
 * The plain run, in which nothing is preempted. It is made once, and shows all searches where their schedules can
 * begin.
 */
export class Survey extends Enumerating {
  private operation: unknown
  /** The fiber that has run an operation, or `"several"`: `Ref.get(ref)`, say, is one value for all fibers. */
  private readonly runBy = new Map<unknown, Lane | "several">()
  /** The last operation of each fiber. */
  private readonly latest = new Map<Lane, unknown>()
  /** The last operation that the fiber of a place has run before it. */
  private readonly before = new Map<Place, unknown>()

  constructor(seed: number, offers: ReadonlySet<Offer>) {
    super({ seed, departures: [] }, offers)
  }

  /** Must be called with each operation before the run asks about it. */
  readonly begins = (operation: unknown): void => {
    this.operation = operation
  }

  override atOperation(run: Run, lane: Lane): Preemption | undefined {
    const { length } = this.places
    super.atOperation(run, lane)
    const { operation } = this
    if (this.places.length > length) this.before.set(this.places[length]!, this.latest.get(lane))
    if (operation !== undefined && !isNoting(operation)) {
      this.runBy.set(operation, (this.runBy.get(operation) ?? lane) === lane ? lane : "several")
      this.latest.set(lane, operation)
    }
    return undefined
  }

  override siteHere(): string | undefined {
    return siteOf(this.operation)
  }

  /** The places that have departures of these kinds, with only these departures. */
  placesFor(offers: ReadonlySet<Offer>): ReadonlyArray<Place> {
    return this.places.flatMap((place) => {
      const { departures } = place
      const offered = departures.filter((departure) => offers.has(offerOf(departure)))
      return offered.length === 0 ? [] : [{ departures: offered, site: this.siteAmong(place) }]
    })
  }

  coverageOf(offers: ReadonlySet<Offer>): Coverage {
    return new Coverage(this.placesFor(offers))
  }

  /**
   * The site. If several fibers have run the operation before it, and so share something, the site is distinguished
   * from the same code elsewhere.
   */
  private siteAmong(place: Place): string | undefined {
    const isShared = this.runBy.get(this.before.get(place)) === "several"
    return isShared && place.site !== undefined ? `${place.site} after what fibers share` : place.site
  }
}

/** Departures in the order of the run, except that short suspensions come last, since long ones find most faults. */
const inTurn = (places: ReadonlyArray<Place>, { picks }: Space): ReadonlyArray<Departure> => {
  const all = places.flatMap(({ departures }) => departures)
  const isShort = (departure: Departure) => departure.kind === "preempt" && !departure.long
  return picks ? all : [...all.filter((departure) => !isShort(departure)), ...all.filter(isShort)]
}

/**
 * The kind of one of Effect's primitives, and the source of its function. `undefined` for an operation that only
 * registers a continuation, since departing before it is the same as departing before the next operation.
 */
const siteOf = (operation: unknown): string | undefined => {
  if (operation === undefined || isNoting(operation)) return undefined
  const { _op, effect_instruction_i0, effect_instruction_i1 } = operation as Record<string, unknown>
  const code = [effect_instruction_i1, effect_instruction_i0].find((part) => typeof part === "function")
  return `${_op} ${code ?? ""}`
}

const isNoting = (operation: unknown): boolean => noting.has((operation as { readonly _op?: unknown })._op)

const noting = new Set<unknown>(["OnSuccess", "OnFailure", "OnSuccessAndFailure"])
