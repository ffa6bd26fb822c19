import axios, { AxiosError, type AxiosInstance, type InternalAxiosRequestConfig } from "axios"
import { type AxiosAuthRefreshOptions, createAuthRefresh } from "axios-auth-refresh"
import { type Contender, loopOf, stormOf } from "./contender.js"
import { url } from "./server.js"

const reply = (config: InternalAxiosRequestConfig, status: number) => ({
  data: "",
  status,
  statusText: "",
  headers: {},
  config
})

/**
 * The setup of axios-auth-refresh's README: a request interceptor reads the current token and puts it on. (The cast:
 * its types are CommonJS, where axios declares every type a second time.)
 */
const withRefresh = (
  instance: AxiosInstance,
  first: string,
  refresh: () => Promise<string>,
  options: AxiosAuthRefreshOptions
) => {
  let current = first
  instance.interceptors.request.use((config) => {
    config.headers.set("Authorization", `Bearer ${current}`)
    return config
  })
  createAuthRefresh(instance as unknown as Parameters<typeof createAuthRefresh>[0], async () => {
    current = await refresh()
  }, options)
  return instance
}

const contender = (name: string, options: AxiosAuthRefreshOptions): Contender => ({
  name,
  connect: async (server) => {
    const instance = axios.create({
      adapter: async (config) => {
        const status = await server.answer(config.headers.get("Authorization") as string)
        if (config.validateStatus?.(status)) return reply(config, status)
        throw new AxiosError("refused", AxiosError.ERR_BAD_REQUEST, config, undefined, reply(config, status))
      }
    })
    withRefresh(instance, server.first, server.refresh, options)
    const request = async () => (await instance.get(url)).status
    await request()
    return { storm: stormOf(request) }
  }
})

const bare = () => axios.create({ adapter: async (config) => reply(config, 200) })

export const axiosAuthRefresh: Contender = {
  ...contender("axios-auth-refresh", {}),
  happyPath: [
    { name: "axios", send: loopOf(() => bareInstance.get(url)) },
    { name: "axios, axios-auth-refresh", send: loopOf(() => refreshInstance.get(url)) }
  ]
}

/** The package's README advises against this option, but with it the requests in flight are kept. */
export const axiosAuthRefreshNoDedupe = contender("axios-auth-refresh, no dedupe", { deduplicateRefresh: false })

const bareInstance = bare()
const refreshInstance = withRefresh(bare(), "token-0", () => Promise.reject(new Error("not to be refreshed")), {})
