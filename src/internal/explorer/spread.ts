/** Orders the places of a run so that the first n of them, for every n, are a fair sample of all. */
import * as Utils from "effect/Utils"
import type { Departure } from "./schedule.js"

/** An operation at which a run can depart, and its possible departures. */
export interface Place {
  readonly departures: ReadonlyArray<Departure>
  /** The operation's kind: the same for operations that come from the same code, in the same relation to others. */
  readonly site: string | undefined
}

/**
 * All departures of all places; the first `quota` of them are those that a limited search tries. The places take turns,
 * with one departure each at a time. Of every three places in this order, two come from an even walk over the run, and
 * one from a round through the code:
 *
 * - The walk visits all parts of the run equally.
 * - The round visits each piece of code once before it visits any twice. Sixty fibers with the same code fill most of a
 *   run, but a fault is as likely in the few operations after them. The same code counts as another piece after an
 *   operation that several fibers have run (`Ref.get` of one reference): fibers that share something are more likely to
 *   have a race.
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

/** Each item once: first `size` items at equal distances, then the others. */
const evenWalk = <A>(all: ReadonlyArray<A>, size: number, random: Utils.PCGRandom): ReadonlyArray<A> => {
  if (size >= all.length) return inStrides(all, random)
  const offset = random.number()
  const first = new Set(Array.from({ length: size }, (_, index) => Math.floor((index + offset) * all.length / size)))
  return [
    ...inStrides(all.filter((_, index) => first.has(index)), random),
    ...inStrides(all.filter((_, index) => !first.has(index)), random)
  ]
}

/**
 * Each item once, in strides of about the golden ratio, so that the first n items, for every n, divide the whole
 * evenly.
 */
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

/** The first item of each list, then the second of each list that has one, and so on. */
const inRounds = <A>(lists: ReadonlyArray<ReadonlyArray<A>>): ReadonlyArray<A> => {
  const all: Array<A> = []
  let left = lists
  for (let index = 0; left.length > 0; index++) {
    for (const list of left) all.push(list[index]!)
    left = left.filter(({ length }) => length > index + 1)
  }
  return all
}

/**
 * The departures of one place in random order. A long suspension finds more faults, and comes first in three of four
 * cases.
 */
const drawn = (departures: ReadonlyArray<Departure>, random: Utils.PCGRandom): ReadonlyArray<Departure> => {
  const isShort = (departure: Departure) => departure.kind === "preempt" && !departure.long
  const long = departures.filter((departure) => !isShort(departure))
  const short = departures.filter(isShort)
  return departures.map(() => {
    const from = short.length === 0 || (long.length > 0 && random.integer(4) > 0) ? long : short
    return from.splice(random.integer(from.length), 1)[0]!
  })
}
