/**
 * Runs every task once in each round and gives each task's results, round by round. A temporary disturbance of the
 * machine affects all tasks alike, and differences within a round cancel drift between rounds. The order rotates, so
 * that no task always runs after the same other task.
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
      // The garbage of the previous task must not be collected during this one.
      if (collect) globalThis.gc?.()
      results[index]!.push(await tasks[index]!())
    }
  }
  return results
}

/** The median of a sample, with the quartiles as its spread: one disturbed round changes neither. */
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
