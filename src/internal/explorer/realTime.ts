/**
 * Real time, even with fake timers (`vi.useFakeTimers`), whether a test installs them before or after this module is
 * loaded. Fake timers replace the global timer functions, `performance`, `process.hrtime`, and the functions of
 * `node:timers`; none replaces `process.uptime` or `MessageChannel`.
 */

/**
 * Milliseconds since some moment in the past. In a browser: `performance.now` as it was when this module was loaded.
 */
export const elapsed: () => number =
  ((uptime) => uptime === undefined ? performance.now.bind(performance) : () => uptime() * 1_000)(
    globalThis.process?.uptime
  )

/** Calls `resume` after a turn of the event loop, timers and I/O included. Gives a function that cancels the call. */
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

/** The timer functions as they were when this module was loaded. */
export const { clearTimeout, setTimeout } = globalThis
