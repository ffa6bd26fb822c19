/**
 * The addresses of an authorization server's metadata (OpenID Connect Discovery, RFC 8414), and whether the metadata
 * belongs to the expected server. Pure.
 */

export interface Place {
  readonly issuer: string
  /** The possible addresses of the metadata, in order: each is tried only if the one before has no metadata. */
  readonly urls: ReadonlyArray<URL>
}

const openid = "/.well-known/openid-configuration"
const oauth = "/.well-known/oauth-authorization-server"

/** An issuer's place. The address of the metadata itself, which is often taken for the issuer, is accepted, too. */
export const placeOf = (issuer: URL): Place => {
  const { origin, pathname } = issuer
  for (const suffix of [openid, oauth]) {
    if (pathname.endsWith(suffix)) return { issuer: origin + pathname.slice(0, -suffix.length), urls: [issuer] }
    if (pathname.startsWith(`${suffix}/`)) return { issuer: origin + pathname.slice(suffix.length), urls: [issuer] }
  }
  const path = pathname.replace(/\/+$/, "")
  return {
    issuer: origin + pathname,
    urls: [new URL(`${origin}${path}${openid}${issuer.search}`), new URL(`${origin}${oauth}${path}${issuer.search}`)]
  }
}

/**
 * Whether two names mean the same issuer. After this comparison only the metadata's name is used. The comparison only
 * has to notice a wrong address, so a slash at the end and the case of letters do not matter. A `{tenantid}` in the
 * found name (Entra's for many tenants) matches any single segment of the path.
 */
export const isSameIssuer = (expected: string, found: string): boolean => {
  if (!URL.canParse(expected) || !URL.canParse(found)) return false
  const one = new URL(expected)
  const other = new URL(found)
  const segments = segmentsOf(one)
  const foundSegments = segmentsOf(other)
  return one.origin === other.origin &&
    segments.length === foundSegments.length &&
    foundSegments.every((segment, i) => segment === segments[i] || segment === tenant)
}

const tenant = "{tenantid}"

const segmentsOf = ({ pathname }: URL): ReadonlyArray<string> =>
  pathname.replace(/%7b/gi, "{").replace(/%7d/gi, "}").replace(/\/+$/, "").toLowerCase().split("/")

/** The issuer's name with the tenant that a token names, if that name has a place for it. */
export const ofTenant = (issuer: string, tid: unknown): string =>
  typeof tid === "string" && /^[\w-]+$/.test(tid) ? issuer.replace(tenant, tid) : issuer
