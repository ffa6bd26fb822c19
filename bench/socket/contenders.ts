import { bare, bareCorked, bareQueued } from "./bare.js"
import type { Contender, Part } from "./contender.js"
import { holdfast } from "./holdfast.js"
import { platformHandler, platformStream } from "./platform.js"
import { partysocket, reconnectingWebSocket } from "./reconnecting.js"
import { rxjs } from "./rxjs.js"

const contenders: ReadonlyArray<Contender> = [
  bare,
  bareCorked,
  bareQueued,
  partysocket,
  reconnectingWebSocket,
  rxjs,
  platformHandler,
  platformStream,
  ...holdfast
]

export const takingPartIn = (part: Part): ReadonlyArray<Contender> =>
  contenders.filter(({ parts }) => parts.includes(part))
