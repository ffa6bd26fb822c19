/**
 * The server, in a separate process, so that its CPU is not counted and it can be killed. It is plain JavaScript,
 * because it is started many times, and compiling would take most of that time.
 *
 * `/echo` answers each message with itself; `/cork` does the same, but writes all answers of one turn together.
 * `/numbered` takes numbers from 1 and first writes each down, so that a kill loses no taken message, and reports when
 * it has all up to a multiple of `?every=`; `/acknowledged` reports up to which number it has all, once for many
 * messages. `/refuse` refuses the upgrade with 503.
 */
import { openSync, readFileSync, writeSync } from "node:fs"
import { WebSocketServer } from "ws"

const [port, log] = process.argv.slice(2)
const file = log === undefined ? undefined : openSync(log, "a")

// The process that started it is gone.
process.on("disconnect", () => process.exit())

const received = new Set()
let complete = 0
const take = (id) => {
  received.add(id)
  while (received.delete(complete + 1)) complete++
}
if (log !== undefined) { for (const line of readFileSync(log, "utf8").split("\n").filter(Boolean)) take(Number(line)) }

const echo = (socket) => socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }))

const cork = (socket, transport) => {
  let isCorked = false
  socket.on("message", (data, isBinary) => {
    if (!isCorked) {
      isCorked = true
      transport.cork()
      process.nextTick(() => {
        isCorked = false
        transport.uncork()
      })
    }
    socket.send(data, { binary: isBinary })
  })
}

const numbered = (socket, every, isAcknowledged) => {
  let isDue = false
  const answer = () => {
    isDue = false
    socket.send(String(complete))
  }
  socket.on("message", (data) => {
    const id = Number(data.toString())
    writeSync(file, `${id}\n`)
    // A message that was taken before is recognised, and not taken again.
    if (id > complete) take(id)
    if (isDue || !isAcknowledged && complete % every !== 0) return
    isDue = true
    setImmediate(answer)
  })
}

const listen = () => {
  const server = new WebSocketServer({
    host: "127.0.0.1",
    port: Number(port),
    perMessageDeflate: false,
    verifyClient: ({ req }, answer) => answer(req.url !== "/refuse", 503),
    backlog: 1_024
  })
  server.on("listening", () =>
    process.send({
      event: "listening",
      port: server.address().port,
      at: performance.timeOrigin + performance.now()
    }))
  // A connection of its predecessor may still hold the port.
  server.on("error", () => setTimeout(listen, 5))
  server.on("connection", (socket, request) => {
    const { pathname, searchParams } = new URL(request.url, "ws://localhost")
    socket.on("error", () => {})
    if (pathname === "/echo") echo(socket)
    else if (pathname === "/cork") cork(socket, request.socket)
    else numbered(socket, Number(searchParams.get("every")), pathname === "/acknowledged")
    process.send({ event: "connected" })
  })
}
listen()
