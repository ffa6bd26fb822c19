/** The API reference, `npm run docs`, from the doc comments. A warning fails it: a link to nowhere, say. */
import { Converter, ReflectionKind } from "typedoc"

/** The comment at the head of a file is its module's: typedoc takes it for one only if it has a tag that says so. */
const headers = (app) =>
  app.converter.on(Converter.EVENT_CREATE_DECLARATION, (context, reflection) => {
    if (!reflection.kindOf(ReflectionKind.Module) || reflection.hasComment()) return
    const [file] = context.getSymbolFromReflection(reflection)?.declarations ?? []
    const comment = file && context.getNodeComment(file.statements[0], false)
    if (comment) reflection.comment = comment
  })

/** @type {Partial<import("typedoc").TypeDocOptions>} */
export default {
  name: "effect-holdfast",
  entryPoints: ["src/*.ts", "src/{node,sql,redis,testing}/*.ts"],
  // These files only hand on what the modules have.
  exclude: ["src/{index,node,sql,redis,oauth2,testing}.ts"],
  tsconfig: "tsconfig.build.json",
  out: "docs/api",
  readme: "README.md",
  plugin: [headers],
  includeVersion: true,
  excludeInternal: true,
  excludeExternals: true,
  disableSources: true,
  // A function as a property is described with the whole that it belongs to.
  requiredToBeDocumented: ["Module", "Namespace", "Class", "Interface", "TypeAlias", "Variable", "Enum"],
  validation: { notExported: false, invalidLink: true, rewrittenLink: true, notDocumented: true },
  treatWarningsAsErrors: true
}
