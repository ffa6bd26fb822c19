/**
 * With `--view`, the processes of the storm that have a session or sockets serve an Inspector, each at its own address:
 * an Inspector shows only its own process.
 */
import * as Inspector from "effect-holdfast/Inspector"
import { NodeInspector } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/** Inherited by the processes that the storm starts. */
const variable = "HOLDFAST_STORM_VIEW"

export const open = (): void => {
  process.env[variable] = "open"
}

/** An Inspector. With `--view` its address is printed on standard error, since standard output is for the ledger. */
export const layer = (what: string): Layer.Layer<Inspector.Inspector> =>
  Layer.suspend(() =>
    process.env[variable] === undefined ? Inspector.layer : Layer.provideMerge(served(what), Inspector.layer)
  )

const served = (what: string): Layer.Layer<never, never, Inspector.Inspector> =>
  Layer.scopedDiscard(
    Effect.map(Effect.orDie(NodeInspector.serve()), ({ url }) => void process.stderr.write(`${what}: ${url}\n`))
  )
