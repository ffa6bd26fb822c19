/** What was promised, what happened, and whether it held. */

export interface Entry {
  readonly promise: string
  readonly happened: string
  readonly held: boolean
}

/** The part of the ledger that one part of the storm answers for. `counts` are the figures behind the entries. */
export interface Section {
  readonly part: string
  readonly entries: ReadonlyArray<Entry>
  readonly counts: Readonly<Record<string, unknown>>
}

export const allHeld = (sections: ReadonlyArray<Section>): boolean =>
  sections.every(({ entries }) => entries.every(({ held }) => held))

export const toTable = (sections: ReadonlyArray<Section>): string => {
  const width = Math.max(...sections.flatMap(({ entries }) => entries.map(({ promise }) => promise.length)))
  return sections.map(({ entries, part }) =>
    [
      part,
      ...entries.map(({ happened, held, promise }) =>
        `  ${held ? "held  " : "BROKEN"}  ${promise.padEnd(width)}  ${happened}`
      )
    ].join("\n")
  ).join("\n")
}
