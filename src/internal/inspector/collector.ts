/**
 * The data of an Inspector: an entry for each living thing, sums over the things that have gone, and the last events.
 * There is no fiber and no timer: an entry is asked for its row when the data is read.
 */
import type * as Clock from "effect/Clock"
import type { Gone, InspectorEvent, Snapshot } from "../../Inspector.js"
import type { Counts, Entry, Kind, Registered, Registry, RowOf } from "../registry.js"

/** How many events are kept, for all things together. */
export const eventLimit = 256

/**
 * For how many names of each kind the sums over gone things are kept. Further names are summed up under `otherNames`.
 */
export const goneLimit = 1000

export const otherNames = "(other names)"

type NumberTree = { readonly [key: string]: number | NumberTree }

interface Living {
  readonly id: number
  readonly entry: Entry<any>
}

export class Collector implements Registry {
  private readonly clock: Clock.Clock
  private readonly living: { readonly [K in Kind]: Set<Living> } = {
    sessions: new Set(),
    sockets: new Set(),
    refs: new Set(),
    tickets: new Set()
  }
  private readonly gone: { readonly [K in Kind]: Map<string, Gone<Counts>> } = {
    sessions: new Map(),
    sockets: new Map(),
    refs: new Map(),
    tickets: new Map()
  }
  /** A ring buffer: event n is at index n modulo the limit. */
  private readonly events: Array<InspectorEvent> = []
  private ids = 0
  private numbers = 0

  constructor(clock: Clock.Clock) {
    this.clock = clock
  }

  readonly add = <K extends Kind>(entry: Entry<K>): Registered => {
    const { kind } = entry
    const living = { id: ++this.ids, entry }
    this.living[kind].add(living)
    return {
      note: (event, detail, millis) => this.note({ kind, id: living.id, name: entry.name(), event, detail, millis }),
      now: () => this.clock.unsafeCurrentTimeMillis(),
      leave: () => this.leave(living),
      addToGone: (name, counts) => this.addToGone(kind, name, { things: 0, ...counts })
    }
  }

  private leave(living: Living): void {
    const { counts, kind, name } = living.entry
    if (this.living[kind as Kind].delete(living)) this.addToGone(kind, name(), { things: 1, ...counts() })
  }

  private note(event: Omit<InspectorEvent, "at" | "number">): void {
    const number = this.numbers++
    this.events[number % eventLimit] = { number, at: this.clock.unsafeCurrentTimeMillis(), ...event }
  }

  private addToGone(kind: Kind, name: string, counts: Counts & { readonly things: number }): void {
    const all = this.gone[kind]
    const key = all.has(name) || all.size < goneLimit ? name : otherNames
    const before = all.get(key)
    all.set(key, { ...sum(before ?? {}, counts) as unknown as Gone<Counts>, name: key })
  }

  /** The kept events from this number on. */
  eventsFrom(number: number): ReadonlyArray<InspectorEvent> {
    const events: Array<InspectorEvent> = []
    const first = Math.max(number, this.numbers - this.events.length)
    for (let i = first; i < this.numbers; i++) events.push(this.events[i % eventLimit]!)
    return events
  }

  snapshot(from = 0): Snapshot {
    const now = this.clock.unsafeCurrentTimeMillis()
    const rows = <K extends Kind>(kind: K): ReadonlyArray<RowOf<K>> => {
      const all: Array<RowOf<K>> = []
      for (const living of this.living[kind]) {
        const { entry, id } = living
        const row = entry.read(now)
        if (row !== undefined) all.push({ id, name: entry.name(), ...row } as RowOf<K>)
        // The thing has been collected, and its finalizer has not run yet.
        else this.leave(living)
      }
      return all
    }
    const gone = <K extends Kind>(kind: K): ReadonlyArray<Gone<any>> => [...this.gone[kind].values()]
    // The rows are read first, since reading a row may record an event, such as an expired ticket.
    const living = {
      sessions: rows("sessions"),
      sockets: rows("sockets"),
      refs: rows("refs"),
      tickets: rows("tickets")
    }
    return {
      at: now,
      ...living,
      gone: { sessions: gone("sessions"), sockets: gone("sockets"), refs: gone("refs"), tickets: gone("tickets") },
      events: this.eventsFrom(from)
    }
  }
}

/** Adds the numbers that have the same place in both. */
const sum = (a: object, b: object): NumberTree => {
  const all: Record<string, number | NumberTree> = { ...a as NumberTree }
  for (const [key, value] of Object.entries(b as NumberTree)) {
    const before = all[key]
    all[key] = typeof value === "number" ? value + Number(before ?? 0) : sum((before ?? {}) as NumberTree, value)
  }
  return all
}
