/** A ref's entry in an Inspector. It refers to the ref weakly, because a ref has no scope that would end the entry. */
import { globalValue } from "effect/GlobalValue"
import type { Registry } from "../registry.js"
import type { Cell } from "./layer.js"

/** Removes a ref from its Inspector when the ref has been garbage-collected. Nothing here refers to the ref itself. */
const whenCollected = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/whenCollected"),
  () => new FinalizationRegistry<() => void>((leave) => leave())
)

export const register = (registry: Registry, cell: Cell<any>): void => {
  const { counts, name } = cell
  const ref = new WeakRef(cell)
  cell.registered = registry.add({
    kind: "refs",
    name: () => name,
    read: () => {
      const alive = ref.deref()
      if (alive === undefined) return undefined
      const { holder, waiters } = alive
      return {
        holder: holder === undefined ? null : `#${holder.fiber.id}`,
        since: holder?.since ?? null,
        waiters,
        ...counts
      }
    },
    counts: () => counts
  })
  whenCollected.register(cell, cell.registered.leave)
}
