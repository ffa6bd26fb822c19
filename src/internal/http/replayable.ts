/** Decides which requests can be sent a second time. */
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as Predicate from "effect/Predicate"

/** Whether a request's body is the same when it is read a second time. */
export const isReplayable = ({ body }: HttpClientRequest.HttpClientRequest): boolean =>
  body._tag === "Raw" ? !isReadOnce(body.body) : body._tag !== "Stream"

const isReadOnce = (body: unknown): boolean =>
  Predicate.isObject(body) &&
  ("pipe" in body || "getReader" in body || "next" in body || Symbol.asyncIterator in body)
