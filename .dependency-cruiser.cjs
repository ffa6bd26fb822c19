/**
 * The import directions of the package. Floors, from the ground: what needs only `effect`; sessions; what talks
 * HTTP; the entry points for one platform. An import points down a floor or stays inside one idea.
 */
const floor1 = "^src/(InvalidOptions|Backoff|TransactionalRef|TicketCache)\\.ts$"
const floor2 = "^src/(Session|SessionMap|SessionStore)\\.ts$"
const floor3 =
  "^src/(SessionHttpClient|HttpSession|(Persisted|Shared)Session|DefectBoundary|WebSocketDialer|ReconnectingSocket)\\.ts$"
const oauth2 = "^src/(OAuth2Session|oauth2)\\.ts$"
const floor4 = "^src/(OAuth2Session|oauth2|Inspector)\\.ts$"
const oauth4webapi = "^node_modules/oauth4webapi/"
const testing = "^src/testing(/|\\.ts$)"
const platform = "^node_modules/@effect/platform/"

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    {
      // A machine under internal/ may know the types of the public file that stands on it: they are erased.
      name: "no-cycles",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } }
    },
    {
      name: "every-module-has-a-floor",
      severity: "error",
      from: {
        path: "^src/",
        pathNot: [
          floor1,
          floor2,
          floor3,
          floor4,
          "^src/internal/",
          "^src/(node|index|sql|redis)\\.ts$",
          "^src/(node|sql|redis)/",
          testing
        ]
      },
      to: {}
    },
    {
      name: "floor-1-imports-nothing-above",
      severity: "error",
      from: { path: floor1 },
      to: { path: "^src/", pathNot: [floor1, "^src/internal/[^/]+$", "^src/internal/(transaction|tickets)/"] }
    },
    {
      name: "floor-2-imports-nothing-above",
      severity: "error",
      from: { path: floor2 },
      to: { path: "^src/", pathNot: [floor1, floor2, "^src/internal/"] }
    },
    {
      name: "floor-3-imports-nothing-above",
      severity: "error",
      from: { path: floor3 },
      to: { path: "^src/", pathNot: [floor1, floor2, floor3, "^src/internal/"] }
    },
    {
      name: "floor-4-imports-nothing-above",
      severity: "error",
      from: { path: floor4 },
      to: { path: "^src/", pathNot: [floor1, floor2, floor3, floor4, "^src/internal/"] }
    },
    {
      name: "only-its-own-entry-point-needs-oauth4webapi",
      severity: "error",
      from: { path: "^src/", pathNot: [oauth2, "^src/internal/oauth2/"] },
      to: { path: [oauth4webapi, oauth2], dependencyTypesNot: ["type-only"] }
    },
    {
      name: "floor-4-needs-only-effect-platform-and-oauth4webapi",
      severity: "error",
      from: { path: [floor4, "^src/internal/oauth2/"] },
      to: {
        path: "^node_modules/",
        pathNot: ["^node_modules/effect/", platform, oauth4webapi],
        dependencyTypesNot: ["type-only"]
      }
    },
    {
      name: "only-their-own-entry-points-need-databases",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/(sql|redis)(/|\\.ts$)" },
      to: { path: ["^node_modules/(@effect/sql|ioredis)/", "^src/(sql|redis)(/|\\.ts$)"] }
    },
    {
      name: "floors-1-and-2-need-only-effect",
      severity: "error",
      from: { path: [floor1, floor2] },
      to: { path: "^node_modules/", pathNot: "^node_modules/effect/", dependencyTypesNot: ["type-only"] }
    },
    {
      name: "floor-3-needs-only-effect-and-platform",
      severity: "error",
      from: { path: floor3 },
      to: { path: "^node_modules/", pathNot: ["^node_modules/effect/", platform], dependencyTypesNot: ["type-only"] }
    },
    {
      name: "internal-imports-no-values-of-what-stands-on-it",
      severity: "error",
      from: { path: "^src/internal/" },
      to: {
        path: "^src/[^/]+\\.ts$",
        pathNot: "^src/(InvalidOptions|Backoff|WebSocketDialer)\\.ts$",
        dependencyTypesNot: ["type-only"]
      }
    },
    {
      name: "the-room-of-sockets-knows-no-other-room",
      severity: "error",
      from: { path: "^src/internal/socket/" },
      to: { path: "^src/internal/[^/]+/", pathNot: "^src/internal/socket/" }
    },
    {
      name: "only-sockets-know-the-room-of-sockets",
      severity: "error",
      from: {
        path: "^src/",
        pathNot: ["^src/(WebSocketDialer|ReconnectingSocket|node/NodeWebSocketDialer)\\.ts$", "^src/internal/socket/"]
      },
      to: { path: "^src/internal/socket/" }
    },
    {
      name: "testing-stands-on-the-ground",
      severity: "error",
      from: { path: testing },
      to: { path: "^src/", pathNot: [floor1, testing, "^src/internal/(check\\.ts$|explorer/)"] }
    },
    {
      name: "only-its-own-entry-point-needs-vitest",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/testing/vitest\\.ts$" },
      to: { path: ["^node_modules/@effect/vitest/", "^node_modules/vitest/"] }
    },
    {
      name: "core-imports-no-testing",
      severity: "error",
      from: { path: "^src/", pathNot: testing },
      to: { path: testing }
    },
    {
      name: "core-imports-no-node",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/node(/|\\.ts$)" },
      to: { path: ["^src/node(/|\\.ts$)", "^node_modules/@effect/platform-node"] }
    },
    {
      name: "core-runs-in-browsers",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/node(/|\\.ts$)" },
      to: { dependencyTypes: ["core"] }
    },
    { name: "nothing-unresolved", severity: "error", from: {}, to: { couldNotResolve: true } }
  ],
  options: {
    tsPreCompilationDeps: "specify",
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "^node_modules" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["types", "import", "default"] }
  }
}
