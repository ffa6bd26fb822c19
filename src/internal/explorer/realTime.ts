/**
 * Real time, also under fake timers (`vi.useFakeTimers`), whether a test installs them before this module is loaded or
 * after. Fake timers replace the global timer functions, `performance`, `process.hrtime`, and the functions of
 * `node:timers`; none replaces `process.uptime` or `MessageChannel`.
 */

/** Milliseconds since some moment in the past. In a browser: `performance.now` as this module found it. */
export const elapsed: () => number =
  ((uptime) => uptime === undefined ? performance.now.bind(performance) : () => uptime() * 1_000)(
    globalThis.process?.uptime
  )

/** Calls `resume` after the event loop has turned, timers and I/O included. Gives a function that takes that back. */
export const afterTurn = (resume: () => void): () => void => {
  const { port1, port2 } = new MessageChannel()
  const close = () => port1.close()
  port1.addEventListener("message", () => {
    close()
    resume()
  })
  port1.start()
  port2.postMessage(undefined)
  return close
}

/** The timers as this module found them. */
export const { clearTimeout, setTimeout } = globalThis
