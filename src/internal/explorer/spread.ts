/**
 * Orders the places of a run so that the first of them, however many, are a fair sample of all.
 */
import * as Utils from "effect/Utils"
import type { Departure } from "./schedule.js"

/** An operation at which a run can depart, and the ways in which it can. */
export interface Place {
  readonly departures: ReadonlyArray<Departure>
  /** The operation's kind: the same for operations that come from the same code, in the same relation to others. */
  readonly site: string | undefined
}

/**
 * All departures of all places, those first that are tried if only `quota` of them are. The places take turns, one
 * departure of each at a time, and in their order two of three places are the next of an even walk over the run, and
 * one is the next of a round through the code:
 *
 * - The walk comes by all parts of the run equally.
 * - The round comes by each piece of code once before it comes by any twice. Sixty fibers that do the same fill most of
 *   a run, and a fault is as likely in the few operations after them. The same code counts as another piece after an
 *   operation that several fibers have run (`Ref.get` of one reference): where they share something, races are
 *   likelier.
 */
export const spread = (places: ReadonlyArray<Place>, seed: number, quota: number): ReadonlyArray<Departure> => {
  const random = new Utils.PCGRandom(seed)
  const walk = evenWalk(places, Math.ceil(quota * 2 / 3), random)
  const bySite = new Map<string, Array<Place>>()
  for (const place of walk) {
    if (place.site === undefined) continue
    const same = bySite.get(place.site)
    if (same === undefined) bySite.set(place.site, [place])
    else same.push(place)
  }
  const round = inRounds([...bySite.values()])
  const order = new Set<Place>()
  for (let index = 0; index < walk.length; index++) {
    order.add(walk[index]!)
    if (index % 2 === 1 && index >> 1 < round.length) order.add(round[index >> 1]!)
  }
  return inRounds(Array.from(order, ({ departures }) => drawn(departures, random)))
}

/** Each once; the first `size` of them at equal distances, the others after them. */
const evenWalk = <A>(all: ReadonlyArray<A>, size: number, random: Utils.PCGRandom): ReadonlyArray<A> => {
  if (size >= all.length) return inStrides(all, random)
  const offset = random.number()
  const first = new Set(Array.from({ length: size }, (_, index) => Math.floor((index + offset) * all.length / size)))
  return [
    ...inStrides(all.filter((_, index) => first.has(index)), random),
    ...inStrides(all.filter((_, index) => !first.has(index)), random)
  ]
}

/** Each once, in strides of about the golden ratio, so that the first ones, however many, divide the whole evenly. */
const inStrides = <A>(all: ReadonlyArray<A>, random: Utils.PCGRandom): ReadonlyArray<A> => {
  const { length } = all
  if (length === 0) return []
  let stride = Math.max(1, Math.round(length * goldenRatio))
  while (greatestCommonDivisor(stride, length) > 1) stride++
  const start = random.integer(length)
  return all.map((_, index) => all[(start + index * stride) % length]!)
}

export const goldenRatio = (Math.sqrt(5) - 1) / 2

const greatestCommonDivisor = (a: number, b: number): number => b === 0 ? a : greatestCommonDivisor(b, a % b)

/** The first of each, then the second of each that has one, and so on. */
const inRounds = <A>(lists: ReadonlyArray<ReadonlyArray<A>>): ReadonlyArray<A> => {
  const all: Array<A> = []
  let left = lists
  for (let index = 0; left.length > 0; index++) {
    for (const list of left) all.push(list[index]!)
    left = left.filter(({ length }) => length > index + 1)
  }
  return all
}

/** The departures of one place by lot. A long suspension finds more, and is drawn three times of four. */
const drawn = (departures: ReadonlyArray<Departure>, random: Utils.PCGRandom): ReadonlyArray<Departure> => {
  const isShort = (departure: Departure) => departure.kind === "preempt" && !departure.long
  const long = departures.filter((departure) => !isShort(departure))
  const short = departures.filter(isShort)
  return departures.map(() => {
    const from = short.length === 0 || (long.length > 0 && random.integer(4) > 0) ? long : short
    return from.splice(random.integer(from.length), 1)[0]!
  })
}
