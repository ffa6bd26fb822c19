/**
 * Finds out whether a holder that is about to wait for a turn would wait for itself.
 *
 * Every place in a queue waits for its neighbour ahead, and the first for the turn's holder. So a holder waits for as
 * many others as it has places, however long the queues are, and is waited for by as many as it has turns and places.
 *
 * There is a circle exactly if those ahead at the turn lead to the holder that asks; and exactly if those that wait
 * for that holder lead to somebody ahead at the turn. Both searches are made side by side, step by step, and the first
 * to end has the answer. Together they take twice the steps of the shorter one. Many transactions that each hold a ref
 * of their own and ask for a shared one are waited for by nobody: one step each, where the other search would walk
 * through the whole queue. In a chain, where each waits for the next, one of the two sides is always short.
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

/** How the search came to a holder: by way of `turn`, for which the holders of the path before wait. */
interface Path<H extends Holder<H>> {
  readonly holder: H
  readonly turn: Turn<H>
  readonly before: Path<H> | undefined
}

/** Everyone that a new place at the end of the queue would wait for. */
function* pathsAhead<H extends Holder<H>>(asked: Turn<H>): Generator<Path<H>, void> {
  const seen = new Set<H>()
  const toVisit: Array<Path<H>> = [{ holder: asked.last?.holder ?? asked.holder!, turn: asked, before: undefined }]
  for (let path = toVisit.pop(); path !== undefined; path = toVisit.pop()) {
    if (seen.has(path.holder)) continue
    seen.add(path.holder)
    yield path
    for (const { ahead, turn } of path.holder.places?.values() ?? []) {
      // From neighbour to neighbour in one queue it is still the same turn that is waited for.
      const before = turn === path.turn ? path.before : path
      toVisit.push({ holder: ahead?.holder ?? turn.holder!, turn, before })
    }
  }
}

/** Everyone that waits for a holder. A step that finds nobody, or nobody new, is a step too. */
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

/** A path that comes back to a turn gives it once. */
const turnsAlong = <H extends Holder<H>>(path: Path<H>): ReadonlyArray<Turn<H>> => {
  const turns: Array<Turn<H>> = []
  for (let at: Path<H> | undefined = path; at !== undefined; at = at.before) turns.unshift(at.turn)
  return [...new Set(turns)]
}
