/** The stores that a fleet of processes can share, by settings that can be handed to a process. */
import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
import type * as SessionStore from "effect-holdfast/SessionStore"
import type * as Layer from "effect/Layer"

export type StoreSettings = { readonly kind: "file"; readonly directory: string }

export const storeLayer = (settings: StoreSettings): Layer.Layer<SessionStore.SessionStore, unknown> =>
  FileSessionStore.layer(settings)
