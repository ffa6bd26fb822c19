/** Runs before each file of tests. */
import * as fc from "fast-check"

// The same random programs on every machine and every day, unless HOLDFAST_SEED asks for others.
fc.configureGlobal({ seed: Number(process.env["HOLDFAST_SEED"] ?? 0) | 0 })
