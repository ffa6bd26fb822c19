import { defineConfig } from "vitest/config"
import base from "../../vitest.config.js"

/**
 * The tests that the mutated modules are to be caught by. A canary is an edit of the source as it stands, which the
 * mutants' is not.
 */
export default defineConfig({
  resolve: base.resolve!,
  test: {
    include: [
      "test/TransactionalRef.test.ts",
      "test/transactionalRefModel.test.ts",
      "test/byteCache.test.ts",
      "test/interleavings/TransactionalRef.test.ts",
      "test/DefectBoundary.test.ts"
    ],
    testNamePattern: /^(?!.*canary)/,
    maxWorkers: 1,
    minWorkers: 1
  }
})
