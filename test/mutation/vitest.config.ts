import { defineConfig } from "vitest/config"
import base from "../../vitest.config.js"

/**
 * The tests that are to catch the mutants, the swift ones: a mutant that survives is run through all of them. A canary
 * is an edit of the source as it stands, which the mutants' is not; and no mutant is active in another process.
 */
export default defineConfig({
  resolve: base.resolve!,
  test: {
    include: [
      "test/TransactionalRef.test.ts",
      "test/locally.test.ts",
      "test/byteCache.test.ts",
      "test/DefectBoundary.test.ts",
      "test/TicketCache.test.ts",
      "test/tlsSession.test.ts"
    ],
    testNamePattern: /^(?!.*canary|a process)/,
    maxWorkers: 1,
    minWorkers: 1
  }
})
