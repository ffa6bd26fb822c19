/** All scenarios of a reconnecting socket. */
import { closing } from "./closing.js"
import { connections } from "./connections.js"
import { interruptions } from "./interruptions.js"
import { messages } from "./messages.js"
import { operators } from "./operators.js"
import { protocols } from "./protocols.js"
import { renewal } from "./renewal.js"
import { waits } from "./waits.js"
import type { Modules } from "./world.js"

export const scenarios = (modules: Modules) => ({
  ...messages(modules),
  ...connections(modules),
  ...closing(modules),
  ...protocols(modules),
  ...renewal(modules),
  ...interruptions(modules),
  ...waits(modules),
  ...operators(modules)
})
