/** The procedures of the RPC server in `webSocketServerRpcChild.ts`. */
import * as Rpc from "@effect/rpc/Rpc"
import * as RpcGroup from "@effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"

export class Refused extends Schema.TaggedError<Refused>()("Refused", { number: Schema.Number }) {}

export class Rpcs extends RpcGroup.make(
  Rpc.make("Double", { payload: { number: Schema.Number }, success: Schema.Number, error: Refused }),
  /** Never answers. */
  Rpc.make("Hang"),
  /** How many calls hang. */
  Rpc.make("Hanging", { success: Schema.Number }),
  /** One chunk for each number. */
  Rpc.make("Numbers", { payload: { upTo: Schema.Number }, success: Schema.Number, stream: true }),
  /** How many numbers have been made. */
  Rpc.make("Made", { success: Schema.Number })
) {}
