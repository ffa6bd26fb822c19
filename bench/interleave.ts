/**
 * Runs every task once in each round and gives each task's results, round by round. What disturbs the machine for
 * a while disturbs all tasks alike, and a difference taken within a round cancels what drifts between rounds. The
 * order rotates, so that no task always runs behind the same neighbour.
 */
export const interleaved = async <T>(
  rounds: number,
  tasks: ReadonlyArray<() => Promise<T>>,
  { collect } = { collect: true }
): Promise<ReadonlyArray<ReadonlyArray<T>>> => {
  const results = tasks.map((): Array<T> => [])
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < tasks.length; turn++) {
      const index = (round + turn) % tasks.length
      // What the neighbour left behind is not to be collected on this task's time.
      if (collect) globalThis.gc?.()
      results[index]!.push(await tasks[index]!())
    }
  }
  return results
}

/** A sample's middle, and the quartiles as its spread: one disturbed round moves neither. */
export interface Summary {
  readonly low: number
  readonly median: number
  readonly high: number
}

export const summarize = (sample: ReadonlyArray<number>): Summary => {
  const sorted = [...sample].sort((a, b) => a - b)
  const at = (share: number) => {
    const position = share * (sorted.length - 1)
    const below = sorted[Math.floor(position)]!
    const above = sorted[Math.ceil(position)]!
    return below + (above - below) * (position - Math.floor(position))
  }
  return { low: at(0.25), median: at(0.5), high: at(0.75) }
}

/** Element by element: `f` of the two tasks' results of the same round. */
export const paired = (
  left: ReadonlyArray<number>,
  right: ReadonlyArray<number>,
  f: (left: number, right: number) => number
): Summary => summarize(left.map((value, round) => f(value, right[round]!)))
