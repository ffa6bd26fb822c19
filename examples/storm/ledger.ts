/** A promise, what happened, and whether the promise was kept. */

export interface Entry {
  readonly promise: string
  readonly happened: string
  readonly held: boolean
  /**
   * If the promise was not kept: the only reason is that too little happened, or too late. An overloaded machine may be
   * the cause.
   */
  readonly onlyTimeWasMissing?: boolean
}

/** The entries of one part of the storm. `counts` are the figures behind the entries. */
export interface Section {
  readonly part: string
  readonly entries: ReadonlyArray<Entry>
  readonly counts: Readonly<Record<string, unknown>>
}

/** `not reached`: the machine was too busy to judge whether the promise was kept. */
export type Outcome = "held" | "not reached" | "BROKEN"

const outcomeOf = ({ held, onlyTimeWasMissing = false }: Entry, isOverload: boolean): Outcome =>
  held ? "held" : isOverload && onlyTimeWasMissing ? "not reached" : "BROKEN"

export interface Judged extends Section {
  readonly entries: ReadonlyArray<Entry & { readonly outcome: Outcome }>
}

export const judge = (sections: ReadonlyArray<Section>, isOverload: boolean): ReadonlyArray<Judged> =>
  sections.map(({ counts, entries, part }) => ({
    part,
    entries: entries.map((entry) => Object.assign({ outcome: outcomeOf(entry, isOverload) }, entry)),
    counts
  }))

/** The worst of all entries. */
export const outcome = (ledger: ReadonlyArray<Judged>): Outcome => {
  const outcomes = new Set(ledger.flatMap(({ entries }) => entries.map(({ outcome }) => outcome)))
  return (["BROKEN", "not reached"] as const).find((outcome) => outcomes.has(outcome)) ?? "held"
}

export const toTable = (ledger: ReadonlyArray<Judged>): string => {
  const width = Math.max(...ledger.flatMap(({ entries }) => entries.map(({ promise }) => promise.length)))
  return ledger.map(({ entries, part }) =>
    [
      part,
      ...entries.map(({ happened, outcome, promise }) =>
        `  ${outcome.padEnd("not reached".length)}  ${promise.padEnd(width)}  ${happened}`
      )
    ].join("\n")
  ).join("\n")
}
