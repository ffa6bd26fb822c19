/**
 * The forms in which the tests run. `HOLDFAST_FORM` names the form:
 *
 * - `quick`, the default: every kind of proof, each on a small scale. It needs Node and nothing else.
 * - `full`: every proof at its whole depth, with the tools that a machine may lack.
 * - `long`: five times the amounts of `full`.
 */
const forms = ["quick", "full", "long"] as const

const named = process.env["HOLDFAST_FORM"] || "quick"
const found = forms.find((form) => form === named)
if (found === undefined) throw new Error(`HOLDFAST_FORM: must be one of ${forms.join(", ")}, got ${named}`)

/** The form of this run. */
export const form: typeof forms[number] = found

/** How much of something the current form does. The long form does five times what the full form does. */
export const amount = (amounts: { readonly quick: number; readonly full: number }): number =>
  form === "long" ? 5 * amounts.full : amounts[form]
