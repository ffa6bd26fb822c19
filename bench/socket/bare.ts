/** `ws` by hand: the references. They dial again after a fixed time, like most programs. */
import type { Socket } from "node:net"
import { WebSocket } from "ws"
import { type Contender, everything, overCallbacks, redialMillis } from "./contender.js"

type Make = (socket: WebSocket) => (message: string) => void

/** Messages that are sent while there is no connection are lost, unless they are queued. */
const dialing = (make: Make, { isKept }: { readonly isKept: boolean }) =>
  overCallbacks((url, onMessage) =>
    new Promise((opened) => {
      let socket: WebSocket
      let sendOpen: (message: string) => void
      let isClosed = false
      let kept: Array<string> = []
      const dial = () => {
        if (isClosed) return
        socket = new WebSocket(url)
        sendOpen = make(socket)
        socket.on("error", () => {})
        socket.on("message", (data: Buffer) => onMessage(data.toString()))
        socket.on("close", () => setTimeout(dial, redialMillis))
        socket.on("open", () => {
          const waiting = kept
          kept = []
          for (const message of waiting) sendOpen(message)
          opened({
            send: (message) => {
              if (socket.readyState === WebSocket.OPEN) sendOpen(message)
              else if (isKept) kept.push(message)
            },
            close: () =>
              new Promise((closed) => {
                isClosed = true
                if (socket.readyState === WebSocket.CLOSED) closed()
                socket.on("close", () => closed())
                socket.close()
              })
          })
        })
      }
      dial()
    })
  )

const plain: Make = (socket) => (message) => socket.send(message)

/** All messages of one tick are written together. */
const corked: Make = (socket) => {
  let transport: Socket | undefined
  let isCorked = false
  socket.on("upgrade", (response) => {
    transport = response.socket
  })
  const uncork = () => {
    isCorked = false
    transport!.uncork()
  }
  return (message) => {
    if (!isCorked) {
      isCorked = true
      transport!.cork()
      process.nextTick(uncork)
    }
    socket.send(message)
  }
}

export const bare: Contender = {
  name: "bare ws",
  parts: [...everything, "pour"],
  open: dialing(plain, { isKept: false })
}

export const bareCorked: Contender = {
  name: "bare ws, corked per tick",
  parts: ["echo", "heap"],
  open: dialing(corked, { isKept: false })
}

export const bareQueued: Contender = {
  name: "ws and a queue",
  parts: ["recovery", "losses"],
  open: dialing(plain, { isKept: true })
}
