/** Platform's errors, made by this library. Their request is the caller's own, without the session's value. */
import * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { InvalidOptions } from "../../InvalidOptions.js"
import { answering } from "./answer.js"

const described = (option: string, cause: unknown): string =>
  cause instanceof InvalidOptions ? cause.message : `\`${option}\` threw`

/** The error if an option that changes the caller's request has thrown, or has given a wrong answer. */
export const cannotEncode = (request: HttpClientRequest.HttpClientRequest, option: string, cause: unknown) =>
  new HttpClientError.RequestError({ request, reason: "Encode", description: described(option, cause), cause })

export const cannotDecode = (
  request: HttpClientRequest.HttpClientRequest,
  response: HttpClientResponse.HttpClientResponse,
  cause: unknown
) =>
  new HttpClientError.ResponseError({
    request,
    response: answering(request, response),
    reason: "Decode",
    description: described("rejected", cause),
    cause
  })

/** The error if the client has followed a redirect that the session was to follow. */
export const followed = (
  request: HttpClientRequest.HttpClientRequest,
  response: HttpClientResponse.HttpClientResponse
) =>
  new HttpClientError.ResponseError({
    request,
    response: answering(request, response),
    reason: "Decode",
    description:
      "`fetch` has followed a redirect by itself: a `RequestInit` or `Fetch` that is provided to the wrapped " +
      "client replaces the session's. Give it `redirect: \"manual\"`, or provide it to the requests"
  })

export const noUrl = (request: HttpClientRequest.HttpClientRequest, description: string) =>
  new HttpClientError.RequestError({ request, reason: "InvalidUrl", description })
