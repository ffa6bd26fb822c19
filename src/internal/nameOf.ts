/** The name of an error, for logs. */

/** The error's tag or name: never its message, which may quote a request or the peer. One line of at most 80. */
export const nameOf = (error: unknown): string => {
  const { _tag: name = error instanceof Error ? error.name : undefined } = Object(error) as { readonly _tag?: unknown }
  return typeof name === "string" && /^[^\p{C}\p{Zl}\p{Zp}]{1,80}$/u.test(name) ? name : typeof error
}
