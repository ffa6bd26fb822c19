/** The guarantees of a reconnecting socket about application protocols. */
import type * as ReconnectingSocketModule from "effect-holdfast/ReconnectingSocket"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"
import {
  acknowledge,
  acknowledging,
  base,
  countOf,
  deduplicated,
  dropped,
  eventsOf,
  hasSucceeded,
  ignored,
  inWorld,
  isOnce,
  isOver,
  type Modules,
  openAfterEach,
  reading,
  received,
  resettingAfter,
  sending,
  settled,
  together
} from "./world.js"

type Message = Parameters<typeof acknowledge.id>[0]

/** Marks a message with one asterisk for each time it was sent before. */
const marked = (message: Message, times: number): Message => `${String(message)}${"*".repeat(times)}`

const unmarked = (message: string): string => message.replaceAll("*", "")

export const protocols = (modules: Modules) => {
  const { ReconnectingSocket } = modules
  return {
    "messages are acknowledged one by one, in any order, and none is lost, even if connections break": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const stored: Array<string> = []
          const socket = yield* ReconnectingSocket.make({
            ...base,
            acknowledge: { ...acknowledge, cumulative: false, resent: marked, window: 3 }
          })
          const seen = yield* eventsOf(socket)
          // The server does not acknowledge the first sender's first message on the first connection.
          yield* world.serve(resettingAfter([3, 3], (wire, message) => {
            const original = unmarked(message)
            if (wire.number === 0 && original === "a1") return Effect.void
            stored.push(original)
            return wire.peer.send(`ack ${original}`)
          }))
          const senders = yield* together([
            sending(socket, ["a1", "a2", "a3"]),
            Effect.zipRight(socket.deliver("b1"), Effect.sync(() => assert.ok(stored.includes("b1"))))
          ])
          for (const exit of senders) hasSucceeded(exit)
          yield* socket.flush
          assert.deepEqual(deduplicated(stored).toSorted(), ["a1", "a2", "a3", "b1"])
          yield* socket.close()
          yield* Fiber.join(seen.fiber)
          assert.deepEqual(dropped(seen), [])
          const all = received(world)
          // All copies differ, since each repeat was marked.
          assert.ok(isOnce(all), String(all))
          for (const wire of world.wires) assert.ok(isOnce(wire.received.map(unmarked)), String(wire.received))
        })
    ),

    "messages without an identifier pass a full window, and are sent at most once": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            acknowledge: {
              ...acknowledge,
              id: (message) => String(message).startsWith("p") ? undefined : message,
              window: 1
            }
          })
          const seen = yield* eventsOf(socket)
          // The server acknowledges no message before it has received a pong on that connection.
          yield* world.serve(resettingAfter([2], (wire) => {
            return wire.received.some((one) => one.startsWith("p"))
              ? Effect.forEach(
                wire.received.filter((one) => !one.startsWith("p")),
                (one) => wire.peer.send(`ack ${one}`)
              )
              : Effect.void
          }))
          yield* sending(socket, ["a1", "a2"])
          // One pong for each ping of the peer, which asks again after a lost connection.
          yield* Effect.fork(
            Effect.forEach(
              ["p1", "p2", "p3"],
              (pong) => Effect.zipRight(socket.send(pong), Effect.sleep("2 seconds")),
              { discard: true }
            )
          )
          yield* socket.flush
          yield* Effect.sleep("10 seconds")
          yield* socket.close()
          yield* Fiber.join(seen.fiber)
          const all = received(world)
          const pongs = all.filter((message) => message.startsWith("p"))
          assert.ok(isOnce(pongs), String(all))
          assert.deepEqual(deduplicated([...pongs, ...dropped(seen)]).toSorted(), ["p1", "p2", "p3"])
          assert.deepEqual(
            deduplicated(all.filter((message) => message.startsWith("a"))),
            ["a1", "a2"]
          )
        })
    ),

    "a peer's pings are answered on the connection that they came on, even if the window is full": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            acknowledge: { ...acknowledge, window: 1 },
            heartbeat: {
              answer: (message) =>
                String(message).startsWith("ping ") ? Option.some(`pong ${String(message).slice(5)}`) : Option.none()
            }
          })
          const values: Array<string> = []
          const listening = yield* Effect.fork(reading(socket.messages, (message) => void values.push(String(message))))
          // The server acknowledges no message before it has received its pong.
          yield* world.serve(
            resettingAfter([3], ({ number, peer, received }) =>
              received.includes(`pong ${number}`)
                ? Effect.forEach(received.filter((one) => !one.startsWith("pong")), (one) => peer.send(`ack ${one}`))
                : Effect.void),
            ({ number, peer }) => peer.send(`ping ${number}`)
          )
          const senders = yield* together([sending(socket, ["a1", "a2"]), sending(socket, ["b1", "b2"])])
          for (const exit of senders) hasSucceeded(exit)
          yield* socket.flush
          for (const { number, received } of world.wires) {
            const pongs = received.filter((one) => one.startsWith("pong"))
            assert.ok(pongs.length <= 1 && pongs.every((one) => one === `pong ${number}`), String(received))
          }
          yield* socket.close()
          yield* Fiber.join(listening)
          assert.deepEqual(values, [])
          const messages = received(world).filter((message) => !message.startsWith("pong"))
          assert.deepEqual(deduplicated(messages).toSorted(), ["a1", "a2", "b1", "b2"])
        })
    ),

    "messages that a login puts back by `unread` are read once, in order": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            onOpen: ({ heartbeat, receive, send, unread }) => {
              const waiting: Effect.Effect<void, unknown> = Effect.flatMap(receive, (message) =>
                message === "resumed"
                  ? heartbeat({ interval: "1 minute", ping: false })
                  : Effect.zipRight(unread(message), waiting))
              return Effect.zipRight(send("resume"), waiting)
            }
          })
          yield* world.serve(({ number, peer }) =>
            Effect.forEach(["1", "2", "resumed", "3"], (one) => peer.send(one === "resumed" ? one : `${number}${one}`))
              .pipe(
                Effect.zipRight(number === 0 ? Effect.ignore(socket.awaitOpen) : Effect.void),
                Effect.zipRight(number === 0 ? peer.reset : Effect.void)
              )
          )
          const all: Array<Message> = []
          yield* reading(socket.messages, (message) => all.push(message) === 6)
          assert.deepEqual(all, ["01", "02", "03", "11", "12", "13"])
          yield* socket.close()
          yield* isOver(world, socket)
        })
    ),

    "subscriptions of one key are sent once, confirmed on each connection, and closed once": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, subscriptions: { rate: { limit: 2, interval: 1 } } })
          yield* world.serve(
            resettingAfter([2], (wire, message) => message === "open" ? wire.peer.send("ok") : Effect.void)
          )
          const values: Array<string> = []
          const listening = yield* Effect.fork(reading(socket.messages, (message) => void values.push(String(message))))
          const user = Effect.scoped(Effect.zipRight(
            socket.subscribe({
              open: Effect.succeed("open"),
              close: "close",
              key: "key",
              confirmed: (message) => message === "ok" ? Option.some(Either.void) : Option.none()
            }),
            Effect.yieldNow()
          ))
          for (const exit of yield* together<void, unknown>([user, sending(socket, ["a1", "a2"]), user])) {
            hasSucceeded(exit)
          }
          yield* Effect.sleep("3 seconds")
          yield* socket.awaitOpen
          yield* settled
          for (const { received } of world.wires) {
            assert.ok(openAfterEach(received).every((open) => open === 0 || open === 1), String(received))
          }
          const last = world.wires.at(-1)!.received
          assert.equal(openAfterEach(last).at(-1) ?? 0, 0, String(last))
          // A confirmation that comes after the end of its subscription is an ordinary message.
          assert.ok(values.every((message) => message === "ok"), String(values))
          yield* socket.close()
          yield* Fiber.join(listening)
          yield* isOver(world, socket)
        })
    ),

    "a confirmation that was due on a lost connection fails no subscription on the next one": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          const seen = yield* eventsOf(socket)
          yield* world.serve(resettingAfter([1], (wire) => wire.peer.send("ok")))
          yield* socket.awaitOpen
          yield* socket.subscribe({
            open: "open",
            confirmed: (message) => message === "ok" ? Option.some(Either.void) : Option.none(),
            timeout: "3 seconds"
          })
          yield* Effect.sleep("5 seconds")
          assert.deepEqual(received(world), ["open", "open"])
          assert.equal(countOf(seen, "SubscriptionFailed"), 0)
          yield* socket.close()
          yield* isOver(world, socket, seen)
        })
    ),

    "a refused subscription is told to its subscriber or by an event": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, onOpen: ({ receive }) => receive })
          const seen = yield* eventsOf(socket)
          yield* world.serve(
            ({ peer }, message) => message === "open" ? peer.send("refused") : Effect.void,
            ({ peer }) => peer.send("welcome")
          )
          const subscribed = yield* Effect.either(socket.subscribe({
            open: "open",
            confirmed: (message) => message === "refused" ? Option.some(Either.left(message)) : Option.none()
          }))
          yield* socket.awaitOpen
          yield* settled
          const events = countOf(seen, "SubscriptionFailed")
          assert.deepEqual([Either.isLeft(subscribed), events], Either.isLeft(subscribed) ? [true, 0] : [false, 1])
          yield* socket.close()
        })
    ),

    "a subscription that ends as it is sent is closed, or was not sent": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const ending = yield* Deferred.make<void>()
          const socket = yield* ReconnectingSocket.make({
            ...base,
            onOpen: () => Effect.asVoid(Deferred.succeed(ending, undefined))
          })
          const scope = yield* Scope.make()
          yield* Scope.extend(socket.subscribe({ open: "open", close: "close" }), scope)
          yield* world.serve(ignored)
          yield* Deferred.await(ending)
          // Until the subscription is about to be sent.
          yield* Effect.repeatN(Effect.yieldNow(), 4)
          yield* Scope.close(scope, Exit.void)
          yield* socket.awaitOpen
          yield* socket.send("a")
          yield* socket.flush
          yield* settled
          assert.ok(["a", "open,close,a"].includes(String(received(world))), String(received(world)))
          yield* socket.close()
        })
    ),

    "a subscription that ends as it is sent with another one is closed once": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const ending = yield* Deferred.make<void>()
          const socket = yield* ReconnectingSocket.make<Message, Message>({
            ...base,
            subscriptions: { combine: (opens) => [opens.join()] }
          })
          const scope = yield* Scope.make()
          yield* Scope.extend(socket.subscribe({ open: "open x", close: "close x" }), scope)
          yield* socket.subscribe({ open: "open y" })
          yield* world.serve((_, message) =>
            message.startsWith("open") ? Deferred.succeed(ending, undefined) : Effect.void
          )
          yield* Deferred.await(ending)
          yield* Scope.close(scope, Exit.void)
          yield* socket.awaitOpen
          yield* socket.send("a")
          yield* socket.flush
          yield* settled
          assert.deepEqual(received(world), ["open x,open y", "close x", "a"])
          yield* socket.close()
        })
    ),

    "a message that makes the server end the connection is given up, and all others arrive": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, acknowledge: { ...acknowledge, maxResends: 1 } })
          const seen = yield* eventsOf(socket)
          yield* world.serve((wire, message) => message === "poison" ? wire.peer.reset : acknowledging(wire, message))
          const senders = yield* together<void, unknown>([
            sending(socket, ["a1", "a2"]),
            Effect.map(Effect.flip(socket.deliver("poison")), ({ _tag }) => assert.equal(_tag, "MessageUndeliverable")),
            socket.deliver("b1")
          ])
          for (const exit of senders) hasSucceeded(exit)
          yield* socket.flush
          yield* socket.close()
          yield* Fiber.join(seen.fiber)
          assert.deepEqual(dropped(seen), ["poison"])
          const all = received(world)
          assert.deepEqual(deduplicated(all).toSorted(), ["a1", "a2", "b1", "poison"])
          const times = all.filter((message) => message === "poison").length
          assert.ok(times >= 2 && times <= 3, String(all))
        })
    ),

    "each request has its own reply, or is lost with its connection": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          const values: Array<string> = []
          const listening = yield* Effect.fork(reading(socket.messages, (message) => void values.push(String(message))))
          yield* world.serve(resettingAfter([2, 3], (wire, message) => wire.peer.send(`reply ${message}`)))
          const ask = (message: string) =>
            Effect.either(socket.request(message, {
              reply: (reply) => reply === `reply ${message}` ? Option.some(message) : Option.none(),
              timeout: "1 minute"
            }))
          const names = ["a", "b", "c", "d", "e"]
          const answers = yield* Effect.flatMap(Effect.forEach(names, (name) => Effect.fork(ask(name))), Fiber.joinAll)
          const lost: Array<string> = []
          answers.forEach((answer, index) => {
            if (answer._tag === "Right") return assert.equal(answer.right, names[index])
            assert.equal(answer.left._tag, "MessageLost")
            lost.push(names[index]!)
          })
          assert.ok(isOnce(received(world)), String(received(world)))
          // Two connections have broken; requests that they had not been handed went to the next one.
          const answered = names.filter((name) => !lost.includes(name))
          for (const name of answered) assert.ok(received(world).includes(name))
          assert.deepEqual(values, [])
          yield* socket.close()
          yield* Fiber.join(listening)
          yield* isOver(world, socket)
        })
    ),

    "an interrupted request delays no other request": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve((wire, message) => wire.peer.send(message))
          yield* socket.awaitOpen
          const ask = (message: string) => socket.request(message, { reply: Option.some, timeout: "1 second" })
          const first = yield* Effect.fork(ask("a"))
          yield* Effect.yieldNow()
          yield* Fiber.interruptFork(first)
          const second = yield* Effect.fork(ask("b"))
          yield* Fiber.await(first)
          const reply = String(yield* Fiber.join(second))
          assert.ok(reply === "b" || reply === "a" && received(world).includes("a"), reply)
          yield* socket.close()
          yield* isOver(world, socket)
        })
    ),

    "`Opened` comes before the messages of each connection, however early they arrive": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve(ignored, ({ number, peer }) =>
            Effect.forEach(["1", "2", "3"], (message) =>
              peer.send(`${number}${message}`)).pipe(
                Effect.zipRight(Effect.orDie(socket.awaitOpen)),
                Effect.zipRight(number < 2 ? peer.reset : Effect.void)
              ))
          const all: Array<ReconnectingSocketModule.Received<Message>> = []
          yield* reading(socket.received, (one) => {
            all.push(one)
            return one._tag === "Message" && one.message === "23"
          })
          assert.deepEqual(
            all.map((one) =>
              one._tag === "Opened" ? String(one.connection) : `${one.connection} ${one.message}`
            ),
            [
              "0",
              "0 01",
              "0 02",
              "0 03",
              "1",
              "1 11",
              "1 12",
              "1 13",
              "2",
              "2 21",
              "2 22",
              "2 23"
            ]
          )
          yield* socket.close()
        })
    )
  }
}
