/**
 * Finds out whether a holder that is about to wait for a turn would wait for itself.
 *
 * Every place in a queue waits for the place before it, and the first place for the turn's holder. So a holder directly
 * waits for as many others as it has places, however long the queues are, and as many others directly wait for a holder
 * as it has turns and places.
 *
 * Two searches can find a circle: forwards from the end of the turn's queue to the holder that asks, and backwards from
 * this holder, through the holders that wait for it, to a holder in the queue. Both searches run in alternating steps,
 * and the first to end has the answer. Together they take twice the steps of the shorter one. If many transactions each
 * hold a ref of their own and ask for a shared one, the backward search ends at its first step, since no transaction
 * waits for them, while the forward search would go through the whole queue. In a chain, in which each transaction
 * waits for the next, one of the two searches is always short.
 */
import type { Holder, Turn } from "./turn.js"

/** The turns along the circle, if there is one; `holder` has neither `asked` nor a place in its queue. */
export const circleThrough = <H extends Holder<H>, T extends Turn<H>>(
  asked: T,
  holder: H
): ReadonlyArray<T> | undefined => {
  const behind = stepsBehind(holder)
  let isCertain = false
  for (const path of pathsAhead(asked)) {
    if (path.holder === holder) return turnsAlong(path) as ReadonlyArray<T>
    if (isCertain) continue
    const step = behind.next()
    if (step.done === true) return undefined
    isCertain = step.value !== undefined && isAhead(step.value, asked)
  }
  return undefined
}

/** A step of the search: it came to this holder through `turn`, for which the holder of the previous step waits. */
interface Path<H extends Holder<H>> {
  readonly holder: H
  readonly turn: Turn<H>
  readonly before: Path<H> | undefined
}

/** All holders that a new place at the end of the queue would wait for. */
function* pathsAhead<H extends Holder<H>>(asked: Turn<H>): Generator<Path<H>, void> {
  const seen = new Set<H>()
  const toVisit: Array<Path<H>> = [{ holder: asked.last?.holder ?? asked.holder!, turn: asked, before: undefined }]
  for (let path = toVisit.pop(); path !== undefined; path = toVisit.pop()) {
    if (seen.has(path.holder)) continue
    seen.add(path.holder)
    yield path
    for (const { ahead, turn } of path.holder.places?.values() ?? []) {
      // Moving from place to place in one queue, the turn stays the same.
      const before = turn === path.turn ? path.before : path
      toVisit.push({ holder: ahead?.holder ?? turn.holder!, turn, before })
    }
  }
}

/** All holders that wait for a holder. A step without a holder, or without a new one, counts as a step, too. */
function* stepsBehind<H extends Holder<H>>(holder: H): Generator<H | undefined, void> {
  const seen = new Set<H>([holder])
  const toVisit = [holder]
  const found = (waiting: H | undefined): H | undefined => {
    if (waiting === undefined || seen.has(waiting)) return undefined
    seen.add(waiting)
    toVisit.push(waiting)
    return waiting
  }
  for (let visited = toVisit.pop(); visited !== undefined; visited = toVisit.pop()) {
    for (let turn = visited.turn; turn !== undefined; turn = turn.next) yield found(turn.first?.holder)
    for (const { behind } of visited.places?.values() ?? []) yield found(behind?.holder)
  }
}

const isAhead = <H extends Holder<H>>(holder: H, asked: Turn<H>): boolean =>
  asked.holder === holder || holder.places?.has(asked) === true

/** The turns of a path, each of them once. */
const turnsAlong = <H extends Holder<H>>(path: Path<H>): ReadonlyArray<Turn<H>> => {
  const turns: Array<Turn<H>> = []
  for (let at: Path<H> | undefined = path; at !== undefined; at = at.before) turns.unshift(at.turn)
  return [...new Set(turns)]
}
