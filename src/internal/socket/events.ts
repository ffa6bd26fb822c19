/** Publishes a socket's events and states to its readers, and to the operator through telemetry. */
import * as Option from "effect/Option"
import type * as Stream from "effect/Stream"
import type { ConnectionState, SocketEvent } from "../../ReconnectingSocket.js"
import type { Message } from "../../WebSocketDialer.js"
import { Latest } from "../latest.js"
import type { Telemetry } from "./telemetry.js"

/** A callback of the options. */
export type Callback = Extract<SocketEvent, { readonly _tag: "Rejected" }>["callback"]

export class Events {
  private readonly published = new Latest<SocketEvent>(1024)
  private readonly states = new Latest<ConnectionState>(1024)
  private readonly telemetry: Telemetry

  constructor(telemetry: Telemetry) {
    this.telemetry = telemetry
  }

  publish(event: SocketEvent): void {
    this.published.offer(event)
    this.telemetry.note(event)
  }

  publishState(state: ConnectionState): void {
    this.states.offer(state)
    this.telemetry.showState(state._tag)
  }

  /** Publishes nothing more. Readers read what is still unread, and end. */
  end(): void {
    this.states.end()
    this.published.end()
  }

  get stream(): Stream.Stream<SocketEvent> {
    return this.published.changes(Option.none)
  }

  stateChanges(current: () => ConnectionState): Stream.Stream<ConnectionState> {
    return this.states.changes(() => Option.some(current()))
  }

  /** Calls a callback of the user. If it throws, publishes a `Rejected` event and gives `otherwise`. */
  decided<A>(callback: Callback, decide: () => A, otherwise: A, message?: Message): A {
    try {
      return decide()
    } catch (cause) {
      this.publish({ _tag: "Rejected", callback, message, cause })
      return otherwise
    }
  }
}
