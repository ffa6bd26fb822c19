/** An authorization server that rotates refresh tokens and detects their reuse, in the memory of one process. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

export class Refused extends Data.TaggedError("Refused")<{ readonly why: string }> {}

export const Token = Schema.Struct({ family: Schema.Number, number: Schema.Number, expiresAt: Schema.Number })
export type Token = typeof Token.Type

export const tokenServer = (options: { readonly lifetime?: number; readonly takes?: number } = {}) => {
  const families: Array<number> = []
  const calls: Array<string> = []
  const revoked: Array<string> = []
  const uncertain: Array<boolean> = []
  const faults: Array<Effect.Effect<void, Refused>> = []
  const state = { families, calls, revoked, uncertain, reused: 0, running: 0, most: 0 }
  const issue = (family: number) => {
    const number = families[family]!++
    return { family, number, expiresAt: options.lifetime === undefined ? 9e15 : Date.now() + options.lifetime }
  }
  const answer = (call: string, give: () => Effect.Effect<Token, Refused>) =>
    Effect.suspend(() => {
      calls.push(call)
      state.most = Math.max(state.most, ++state.running)
      return Effect.zipRight(faults.shift() ?? Effect.void, Effect.suspend(give))
    }).pipe(
      Effect.tap(() => options.takes === undefined ? Effect.void : Effect.sleep(options.takes)),
      Effect.ensuring(Effect.sync(() => state.running--))
    )
  return {
    state,
    /** Effects that the next calls wait for before they are answered. */
    next: (...effects: ReadonlyArray<Effect.Effect<void, Refused>>) => faults.push(...effects),
    acquire: answer("sign in", () => Effect.sync(() => issue(families.push(0) - 1))),
    renew: (token: Token, info: { readonly uncertain: boolean }) =>
      answer(`renew ${token.family}.${token.number}`, () => {
        uncertain.push(info.uncertain)
        if (families[token.family] === token.number + 1) return Effect.succeed(issue(token.family))
        if (families[token.family]! >= 0) state.reused++
        families[token.family] = -1
        return Effect.fail(new Refused({ why: "invalid_grant" }))
      }),
    onEnd: (token: Token) =>
      Effect.sync(() => {
        revoked.push(`${token.family}.${token.number}`)
        families[token.family] = -1
      })
  }
}
