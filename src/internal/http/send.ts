/**
 * Sends a request with a session's value: follows its redirects, distinguishes refusals from answers, refreshes the
 * session after a refusal, and sends the request again.
 */
import type * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type { InvalidOptions } from "../../InvalidOptions.js"
import type { Generation, Session, SessionError } from "../../Session.js"
import type { RefusalOptions } from "../../SessionHttpClient.js"
import * as Check from "../check.js"
import * as Inside from "../session/inside.js"
import { afterCallback, answering, errorAnswering, failureAnswering, isFiltered, judged, withBody } from "./answer.js"
import { abandon, discardBody, whileDiscarded, whileRead } from "./discard.js"
import { cannotDecode, cannotEncode, followed, noUrl } from "./errors.js"
import { holding } from "./hold.js"
import * as Redirect from "./redirect.js"
import { isReplayable } from "./replayable.js"

type Request = HttpClientRequest.HttpClientRequest
type Response = HttpClientResponse.HttpClientResponse

/**
 * Executes a request whose redirects the session itself follows. A client whose `fetch` has followed one nevertheless
 * may have sent the session's value anywhere: its answer is an error.
 */
export const withoutFollowing = <E, R>(
  execute: (request: Request) => Effect.Effect<Response, E, R>
) =>
(request: Request): Effect.Effect<Response, E | HttpClientError.ResponseError, R> =>
  Effect.matchEffect(Redirect.withRedirectsShown(execute(request)), {
    onSuccess: (response): Effect.Effect<Response, HttpClientError.ResponseError> =>
      refusedIfFollowed(request, response) ?? Effect.succeed(response),
    onFailure: (error): Effect.Effect<Response, E | HttpClientError.ResponseError> =>
      (isFiltered(error) ? refusedIfFollowed(request, error.response) : undefined) ?? Effect.fail(error)
  })

const refusedIfFollowed = (request: Request, response: Response) =>
  Redirect.isFollowed(response) && !Redirect.isBrowser()
    ? Effect.zipRight(abandon(response), Effect.fail(followed(request, response)))
    : undefined

/** A refusal, which is visible only to `Sender` and its makers. */
export class Refused extends Data.TaggedClass("Refused")<{
  readonly response: Response
  /** The error that a status filter beneath the session made of the response. */
  readonly error: HttpClientError.ResponseError | undefined
  readonly repeats: number
}> {}

/** How often one request may be sent again with the same value. */
const mostRepeats = 10

/** How requests are sent with a session's value, and what their caller gets. */
export interface Settings<in A, E0, E1, R> extends RefusalOptions {
  /** Sends a request once: with the value at home, without it at another origin. */
  readonly execute: (
    request: Request,
    value: A,
    isHome: boolean,
    /** Called with the URL that the request goes to, without the value, if that is one of another origin. */
    onMoved: (url: URL) => void
  ) => Effect.Effect<Response, E0, R>
  /** The first hop of a request. Default: at home, and no redirect of it is followed. */
  readonly start?: ((request: Request) => Either.Either<Redirect.Hop, E1 | InvalidOptions>) | undefined
  /** Whether a hop to this URL is at home if the hop before was. Default: if both have the same origin. */
  readonly isHome?: ((url: URL, from: URL) => boolean) | undefined
  /** Whether a refusal by a URL at home counts. Default: all refusals count. */
  readonly isJudge?: ((url: URL) => boolean) | undefined
  /**
   * Gives the answer for a redirect that is not followed. By default, or if this gives `undefined`, the redirect is the
   * answer.
   */
  readonly onUnfollowed?:
    | ((why: "limit" | "read once", hop: Redirect.Hop, response: Response) => Effect.Effect<never, E1> | undefined)
    | undefined
  /** Whether a response holds what its generation acquired until its body has ended. Default: true. */
  readonly bodiesHold?: boolean | undefined
  /** Marks an error as the client's, to distinguish it from the session's. */
  readonly clientError: (error: E0 | HttpClientError.HttpClientError) => E1
  readonly lastingRefusal: (refused: Refused, refreshes: number) => Effect.Effect<Response, E1>
  readonly notReplayable: (request: Request, refused: Refused) => Effect.Effect<Response, E1>
}

/** A session, and the hold that each response has on it until its body has ended. */
export interface Held<in out A, out E> {
  readonly session: Session<A, E>
  readonly retain?: Inside.Retain
}

/** A caller's request to the session's own origin. */
interface Call<in out A, out E> {
  /** The request that the caller made. */
  readonly request: Request
  readonly hop: Redirect.Hop
  readonly held: Held<A, E>
}

/** A single request that is sent, with one value. */
interface Attempt<out A> {
  /** The request that the caller made. */
  readonly request: Request
  readonly hop: Redirect.Hop
  readonly value: A
  readonly repeats: number
  readonly retain: Inside.Retain | undefined
}

export class Sender<A, E0, E1, R> {
  private readonly settings: Settings<A, E0, E1, R>
  private readonly maxRefreshes: Either.Either<number, InvalidOptions>

  constructor(settings: Settings<A, E0, E1, R>) {
    this.settings = settings
    this.maxRefreshes = either(() => Check.count("maxRefreshes", settings.maxRefreshes ?? 1, 0))
  }

  /**
   * Executes a caller's request. `retain` holds the session until the response's body has ended. If the request goes to
   * another origin, the session is not used.
   */
  send<E, E2, R2>(
    request: Request,
    held: Held<A, E> | Effect.Effect<Held<A, E>, E2, R2>
  ): Effect.Effect<Response, E1 | E | E2 | SessionError, R | R2> {
    const { start } = this.settings
    if (Either.isLeft(this.maxRefreshes)) return Effect.fail(this.maxRefreshes.left)
    let hop: Redirect.Hop = { request, url: undefined, isHome: true, redirectsLeft: 0 }
    if (start !== undefined) {
      const first = start(request)
      if (Either.isLeft(first)) return Effect.fail(first.left)
      hop = first.right
    }
    // Without a value there is nothing that could be refused.
    if (!hop.isHome) {
      const sent = this.attempt({ request, hop, value: undefined as A, repeats: 0, retain: undefined })
      return sent as Effect.Effect<Response, E1, R>
    }
    return "session" in held
      ? this.call({ request, hop, held })
      : Effect.flatMap(held, (held) => this.call({ request, hop, held }))
  }

  private call<E>(call: Call<A, E>): Effect.Effect<Response, E1 | E | SessionError, R> {
    const { held, hop, request } = call
    return Inside.of(held.session).hold(
      "current",
      ({ value }, retain) => this.attempt({ request, hop, value, repeats: 0, retain: this.retaining(held, retain) }),
      (cause, generation) => this.recover(call, 0, cause, generation)
    )
  }

  // --- one attempt -----------------------------------------------------------

  private attempt(attempt: Attempt<A>): Effect.Effect<Response, E1 | Refused, R> {
    const { clientError, execute } = this.settings
    let { url } = attempt.hop
    const onMoved = (moved: URL) => {
      if (url !== undefined) url = moved
    }
    return Effect.matchCauseEffect(execute(attempt.hop.request, attempt.value, attempt.hop.isHome, onMoved), {
      onSuccess: (response) => this.received(attempt, url, response, undefined),
      onFailure: (cause) => {
        const failure = Option.getOrUndefined(Cause.failureOption(cause))
        return isFiltered(failure)
          ? this.received(attempt, url, failure.response, failure)
          : Effect.failCause(Cause.map(cause, (error) => clientError(failureAnswering(attempt.request, error))))
      }
    })
  }

  /**
   * Follows a redirect from the URL that was really requested, and distinguishes a refusal from an answer. `error` is
   * what a status filter made of the response.
   */
  private received(
    attempt: Attempt<A>,
    url: URL | undefined,
    response: Response,
    error: HttpClientError.ResponseError | undefined
  ): Effect.Effect<Response, E1 | Refused, R> {
    const { isHome = isSameOrigin, isJudge, onUnfollowed } = this.settings
    const { hop, request, retain } = attempt
    let next: ReturnType<typeof Redirect.next>
    try {
      next = Redirect.next(url === hop.url ? hop : { ...hop, url }, response, isHome)
    } catch (cause) {
      return Effect.zipRight(abandon(response), this.fail(cannotEncode(request, "origins", cause)))
    }
    if (typeof next === "object") {
      return Effect.zipRight(discardBody(response), this.attempt({ ...attempt, hop: next }))
    }
    if (next === "no url") {
      const failure = noUrl(request, "the Location of a redirect is no http or https URL")
      return Effect.zipRight(abandon(response), this.fail(failure))
    }
    const held = holding(request, response, retain)
    const unfollowed = next === "answer" ? undefined : onUnfollowed?.(next, hop, held)
    if (unfollowed !== undefined) return unfollowed
    return hop.isHome && (isJudge === undefined || isJudge(hop.url!))
      ? this.judge(attempt, held, error)
      : this.answer(request, held, error)
  }

  /** Asks `rejected` about the response. */
  private judge(
    attempt: Attempt<A>,
    held: Response,
    error: HttpClientError.ResponseError | undefined
  ): Effect.Effect<Response, E1 | Refused, R> {
    const { rejected = isUnauthorized } = this.settings
    const { request } = attempt
    try {
      // The default of `rejected` does not read the body, so the body need not be kept.
      const seen = this.settings.rejected === undefined ? held : judged(held)
      const verdict = rejected(seen)
      return typeof verdict !== "object" ? this.decide(attempt, seen, held, error, verdict) : Effect.flatMap(
        Effect.catchAllDefect(
          Effect.onInterrupt(verdict, () => abandon(held)),
          (cause) => this.fail(cannotDecode(request, seen, cause))
        ),
        (verdict) => this.decide(attempt, seen, held, error, verdict)
      )
    } catch (cause) {
      return this.fail(cannotDecode(request, held, cause))
    }
  }

  private decide(
    attempt: Attempt<A>,
    seen: Response,
    held: Response,
    error: HttpClientError.ResponseError | undefined,
    verdict: boolean | "again"
  ): Effect.Effect<Response, E1 | Refused, R> {
    const { hop, repeats, request } = attempt
    if (verdict === false || (verdict === "again" && repeats === mostRepeats)) {
      return this.answer(request, afterCallback(seen, held), error)
    }
    if (verdict === true) return Effect.fail(new Refused({ response: seen, error, repeats }))
    if (verdict !== "again") {
      const cause = Check.wrongKind("rejected", verdict, "must answer true, false or \"again\"")
      return this.fail(cannotDecode(request, seen, cause))
    }
    return Effect.flatMap(this.canBeSentAgain(hop.request, seen), (canReplay) =>
      canReplay
        ? Effect.zipRight(discardBody(seen), this.attempt({ ...attempt, repeats: repeats + 1 }))
        : this.settings.notReplayable(
          request,
          new Refused({ response: answering(request, seen), error, repeats })
        ))
  }

  private answer(
    request: Request,
    held: Response,
    error: HttpClientError.ResponseError | undefined
  ): Effect.Effect<Response, E1> {
    return error === undefined
      ? Effect.succeed(held)
      : this.fail(errorAnswering(request, held, error))
  }

  // --- after a refusal -------------------------------------------------------

  private recover<E>(
    call: Call<A, E>,
    refreshes: number,
    cause: Cause.Cause<E1 | Refused>,
    generation: Generation<A>
  ): Effect.Effect<Response, E1 | E | SessionError, R> {
    const { lastingRefusal, notReplayable } = this.settings
    const { held, hop, request } = call
    const refused = Option.getOrUndefined(Cause.failureOption(cause))
    if (!(refused instanceof Refused)) return Effect.failCause(cause as Cause.Cause<E1>)
    const { error, repeats, response } = refused
    if (refreshes === Either.getOrElse(this.maxRefreshes, () => 0)) {
      return lastingRefusal(new Refused({ response: answering(request, response), error, repeats }), refreshes)
    }
    // The refresh may wait for the connection that the refused body holds.
    return Effect.flatMap(this.canBeSentAgain(request, response), (canReplay) =>
      canReplay
        ? whileDiscarded(response, (read) =>
          Inside.of(held.session).hold(
            { after: generation },
            ({ value }, retain) =>
              Effect.zipRight(
                read,
                this.attempt({ request, hop, value, repeats, retain: this.retaining(held, retain) })
              ),
            (cause, generation) => this.recover(call, refreshes + 1, cause, generation)
          ))
        : whileRead(response, (read) =>
          Effect.zipRight(
            held.session.refresh(generation),
            Effect.flatMap(
              read,
              (body) =>
                notReplayable(request, new Refused({ response: withBody(request, response, body), error, repeats }))
            )
          )))
  }

  private canBeSentAgain(request: Request, response: Response): Effect.Effect<boolean, E1> {
    const { replay = isReplayable } = this.settings
    try {
      return Effect.succeed(Check.kind("replay", replay(request), Predicate.isBoolean, "must answer true or false"))
    } catch (cause) {
      return Effect.zipRight(abandon(response), this.fail(cannotEncode(request, "replay", cause)))
    }
  }

  // --- small things ----------------------------------------------------------

  private fail(error: E0 | HttpClientError.HttpClientError): Effect.Effect<never, E1> {
    return Effect.fail(this.settings.clientError(error))
  }

  /** Makes a response hold the session (if a map holds it) and the resources of its generation. */
  private retaining(
    { retain }: Held<A, unknown>,
    ofGeneration: Inside.Retain | undefined
  ): Inside.Retain | undefined {
    const { bodiesHold = true } = this.settings
    if (ofGeneration === undefined || !bodiesHold) return retain
    return retain === undefined ? ofGeneration : () => Effect.ensuring(retain(), ofGeneration())
  }
}

const isSameOrigin = (url: URL, from: URL): boolean => url.origin === from.origin

const isUnauthorized = (response: Response): boolean => response.status === 401

/** Runs checks of options. If a check fails, every request gets its error. */
export const either = <B>(check: () => B): Either.Either<B, InvalidOptions> =>
  Effect.runSync(Effect.either(Check.validated(check)))
