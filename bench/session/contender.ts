import type { Server } from "./server.js"

/** One way of carrying a token that may be refused. */
export interface Contender {
  readonly name: string
  /** A client of `server` that holds the server's first token and has used it. */
  readonly connect: (server: Server) => Promise<Client>
  /** Clients whose server answers 200 immediately: first the bare one, then those that carry a token. */
  readonly happyPath?: ReadonlyArray<{ readonly name: string; readonly send: Loop }> | undefined
}

export interface Client {
  /** Sends this number of requests at the same time, and gives how many were answered with 200 in the end. */
  readonly storm: (callers: number) => Promise<number>
  readonly close?: () => Promise<void>
}

/** Sends this number of requests, one after another. */
export type Loop = (requests: number) => Promise<unknown>

/** The storm of a client whose requests are promises of a status. */
export const stormOf = (send: () => Promise<number>) => async (callers: number): Promise<number> => {
  const statuses = await Promise.all(Array.from({ length: callers }, () => send().catch(() => 0)))
  return statuses.filter((status) => status === 200).length
}

export const loopOf = (send: () => Promise<unknown>): Loop => async (requests) => {
  for (let i = 0; i < requests; i++) await send()
}
