import { describe } from "@effect/vitest"
import { databases } from "../support/databases.js"
import { form } from "../support/form.js"
import { sharedContract } from "./storeContract.js"

let places = 0
const place = () => `holdfast_test_${process.pid}_${Date.now()}_${places++}`

describe.skipIf(form === "quick")("F2, F5: a store in a database", async () => {
  const { mysql, postgres, redis } = form === "quick"
    ? { mysql: undefined, postgres: undefined, redis: undefined }
    : await databases()
  describe.skipIf(postgres === undefined)(
    "PostgreSQL",
    () => sharedContract(() => ({ kind: "postgres", url: postgres!, table: place() }), { hasNotices: true })
  )
  describe.skipIf(mysql === undefined)(
    "MariaDB",
    () => sharedContract(() => ({ kind: "mysql", url: mysql!, table: place() }), { hasNotices: false })
  )
  describe.skipIf(redis === undefined)(
    "Redis",
    () => sharedContract(() => ({ kind: "redis", url: redis!, prefix: `${place()}:` }), { hasNotices: true })
  )
})
