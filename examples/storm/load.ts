import { performance } from "node:perf_hooks"

/** How much processor time a process needed, and how much of it the process was given. Both are in milliseconds. */
export interface Load {
  /** How long the event loop was busy. */
  readonly wanted: number
  /** How long the process ran meanwhile. */
  readonly given: number
}

const loaded = process.cpuUsage()

/** The load of this process since it has loaded its modules. */
export const load = (): Load => {
  const { system, user } = process.cpuUsage(loaded)
  const wanted = performance.eventLoopUtilization().active
  // Other threads of the process use the processor too.
  return { wanted, given: Math.min(wanted, (system + user) / 1000) }
}

export const sum = (loads: ReadonlyArray<Load>): Load => ({
  wanted: loads.reduce((sum, { wanted }) => sum + wanted, 0),
  given: loads.reduce((sum, { given }) => sum + given, 0)
})

/** A storm that runs alone on two cores is given nearly all the processor time that it needs. */
export const isOverload = ({ given, wanted }: Load): boolean => given < wanted * 2 / 3
