import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

export default defineConfig({
  resolve: {
    // The tests import the package by its name; what they run is the source.
    alias: [
      { find: /^effect-holdfast$/, replacement: src("index.ts") },
      { find: /^effect-holdfast\/(.+)$/, replacement: src("$1.ts") }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"]
  }
})
