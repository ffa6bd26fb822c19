import { retry } from "rxjs"
import { webSocket } from "rxjs/webSocket"
import { WebSocket } from "ws"
import { type Contender, everything, overCallbacks, redialMillis } from "./contender.js"

export const rxjs: Contender = {
  name: "rxjs, retry",
  parts: everything,
  open: overCallbacks((url, onMessage) =>
    new Promise((opened) => {
      let isClosed = () => {}
      const subject = webSocket<string>({
        url,
        WebSocketCtor: WebSocket as unknown as typeof globalThis.WebSocket,
        // Text without JSON, as for the other contenders.
        serializer: (message) => message,
        deserializer: ({ data }) => data,
        openObserver: {
          next: () =>
            opened({
              send: (message) => subject.next(message),
              close: () =>
                new Promise((closed) => {
                  isClosed = closed
                  subscription.unsubscribe()
                })
            })
        },
        closeObserver: { next: () => isClosed() }
      })
      const subscription = subject.pipe(retry({ delay: redialMillis })).subscribe(onMessage)
    })
  )
}
