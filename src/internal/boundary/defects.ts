import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type * as Multipart from "@effect/platform/Multipart"
import * as Cause from "effect/Cause"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { isUnwinding } from "../transaction/unwinding.js"
import { problem } from "./problem.js"

/** A defect, and the part of the cause that has it. */
export interface Defect {
  readonly defect: unknown
  readonly part: Cause.Die
}

/**
 * The defects of a cause that are faults of the handler. Three kinds are not: a defect with a response of its own (a
 * handler answers by it), a defect that is the client's fault, and a defect that unwinds the body of a transaction
 * which a deadlock has ended.
 */
export const defectsOf = (cause: Cause.Cause<unknown>): ReadonlyArray<Defect> =>
  Cause.reduce<ReadonlyArray<Defect>, unknown>(cause, [], (all, part) => {
    if (part._tag !== "Die") return Option.none()
    // A span wraps each error that is raised in it in a proxy.
    const defect = Cause.originalError(part.defect)
    const isFault = !HttpServerResponse.isServerResponse(defect) && !HttpServerRespondable.isRespondable(defect) &&
      statusOf(defect) === undefined && !isUnwinding(defect)
    return isFault ? Option.some([...all, { defect, part }]) : Option.none()
  })

/** The error or defect by whose own response the platform answers a cause: the last one of the cause. */
export const respondableIn = (cause: Cause.Cause<unknown>): HttpServerRespondable.Respondable | undefined => {
  const last = Cause.reduce<unknown, unknown>(
    cause,
    undefined,
    (_, part) =>
      part._tag === "Fail" ? Option.some(part.error) : part._tag === "Die" ? Option.some(part.defect) : Option.none()
  )
  return HttpServerRespondable.isRespondable(last) && !HttpServerResponse.isServerResponse(last) ? last : undefined
}

/** The answer to a cause that is the client's fault. */
export const clientFault = (cause: Cause.Cause<unknown>): HttpServerResponse.HttpServerResponse | undefined => {
  const status = Array.from(Cause.defects(cause), statusOf).find((status) => status !== undefined)
  return status && problem(status, status === 400 ? "Bad Request" : "Content Too Large")
}

/**
 * A multipart body that cannot be read is the client's fault. `HttpApi` makes a defect of the error, and an error of
 * the parser without a listener becomes an error of Node's. If these counted as defects, any client could end the
 * server.
 */
const statusOf = (defect: unknown): 400 | 413 | undefined => {
  if (Predicate.isTagged(defect, "MultipartError")) {
    const { cause, reason } = defect as unknown as Multipart.MultipartError
    return statuses[reason] ?? statusOfParser(cause)
  }
  const isUnheard = Predicate.hasProperty(defect, "code") && defect.code === "ERR_UNHANDLED_ERROR"
  return isUnheard && Predicate.hasProperty(defect, "context") ? statusOfParser(defect.context) : undefined
}

const statusOfParser = (error: unknown): 400 | 413 | undefined =>
  Predicate.hasProperty(error, "_tag") ? statuses[String(error._tag)] : undefined

const statuses: Readonly<Record<string, 400 | 413>> = {
  Parse: 400,
  BodyTooLarge: 413,
  FieldTooLarge: 413,
  FileTooLarge: 413,
  TooManyParts: 413,
  // Reasons of the parser's own.
  InvalidBoundary: 400,
  BadHeaders: 400,
  InvalidDisposition: 400,
  EndNotReached: 400,
  ReachedLimit: 413
}
