import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { canaryPlugin } from "./test/support/canaries.js"

const src = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

export default defineConfig({
  plugins: [canaryPlugin(src("."))],
  resolve: {
    // The tests import the package by its name; what they run is the source.
    alias: [
      { find: /^effect-holdfast$/, replacement: src("index.ts") },
      { find: /^effect-holdfast\/(.+)$/, replacement: src("$1.ts") }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    // Two: what the smallest machine of a CI has. By default one is left idle.
    maxWorkers: 2,
    minWorkers: 1,
    reporters: ["default", "./test/support/summary.ts"]
  }
})
