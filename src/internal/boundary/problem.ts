import * as HttpServerResponse from "@effect/platform/HttpServerResponse"

/** An answer of RFC 9457. With `about:blank` the title is the status's own phrase. */
export const problem = (
  status: number,
  title: string,
  members: Readonly<Record<string, string>> = {}
): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(JSON.stringify({ type: "about:blank", title, status, ...members }), {
    status,
    contentType: "application/problem+json"
  })
