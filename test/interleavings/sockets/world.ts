/**
 * The network in which the scenarios of a reconnecting socket run, and what several scenarios share. A scenario is a
 * program that holds under every interleaving. It takes the modules as an argument, so that modules with a known fault
 * can be tried, too.
 *
 * A scenario runs thousands of times, and each operation costs time in each run. So a fiber that only serves is a
 * daemon, which the explorer interrupts at the end of the run, and streams are pulled by hand.
 */
import type * as ReconnectingSocketModule from "effect-holdfast/ReconnectingSocket"
import type * as WebSocketDialerModule from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as assert from "node:assert/strict"
import { withWriteNow } from "../../../src/internal/socket/writeNow.js"
import { quiet } from "../../support/quiet.js"

export interface Modules {
  readonly ReconnectingSocket: typeof ReconnectingSocketModule
  readonly WebSocketDialer: typeof WebSocketDialerModule
  /** Whether connections can also be written to without a fiber, as those of `ws` can. */
  readonly isDirect?: boolean
}

export type Message = WebSocketDialerModule.Message
export type Sockets = ReconnectingSocketModule.ReconnectingSocket<Message, Message>

/** The server's side of a connection. */
export interface Wire {
  readonly number: number
  readonly peer: WebSocketDialerModule.Peer
  readonly received: Array<string>
}

/** The server's reaction to a message that it has received. */
export type Answer = (wire: Wire, message: string) => Effect.Effect<unknown>

interface Line {
  isDialed: boolean
  isOpen: boolean
  isStalled: boolean
  writing: string | undefined
}

/** The network. It records faults, such as overlapping writes. */
export interface World {
  readonly wires: ReadonlyArray<Wire>
  readonly dials: () => number
  /** How many dials have become a connection. */
  readonly dialed: () => number
  /** How many connections are being dialed or open. */
  readonly live: () => number
  /** Waits for the next dial. */
  readonly attempt: Effect.Effect<WebSocketDialerModule.Attempt>
  /** From now on a dial is a fault if this socket is closing or closed. */
  readonly watch: <A>(socket: A) => A
  /** Opens the connection, and reads the messages that arrive. */
  readonly open: (attempt: WebSocketDialerModule.Attempt, answer?: Answer) => Effect.Effect<Wire>
  /** Opens every connection that is dialed. */
  readonly serve: (answer?: Answer, onOpen?: (wire: Wire) => Effect.Effect<unknown>) => Effect.Effect<void>
}

/** The internal state of a socket that the scenarios look at. */
interface Owner {
  readonly state: ReconnectingSocketModule.ConnectionState
  readonly reconnect: (options: ReconnectingSocketModule.ReconnectOptions) => void
  readonly whenMoved: { readonly size: number }
  readonly wiring: {
    readonly orders: { readonly isClosing: boolean; readonly whenOrdered: { readonly size: number } }
    readonly outbox: { readonly whenGone: { readonly size: number } }
  }
}

export const ownerOf = (socket: unknown): Owner => (socket as { readonly owner: Owner }).owner

export const ignored: Answer = () => Effect.void

/** Waits until no fiber can go on: time passes only then. */
export const settled = Effect.sleep("1 millis")

export const together = <A, E>(effects: ReadonlyArray<Effect.Effect<A, E>>) =>
  Effect.flatMap(Effect.forEach(effects, Effect.fork), Effect.forEach(Fiber.await))

export const hasSucceeded = (exit: Exit.Exit<unknown, unknown>): void => assert.ok(Exit.isSuccess(exit), String(exit))

export const isIncreasing = (values: ReadonlyArray<string>): boolean =>
  values.every((value, index) => index === 0 || values[index - 1]! < value)

export const isOnce = (values: ReadonlyArray<string>): boolean => new Set(values).size === values.length

/** The messages of one sender: the sender's letter and a number. */
export const of = (sender: string, messages: ReadonlyArray<string>): ReadonlyArray<string> =>
  messages.filter((message) => message.startsWith(sender))

/** The number of open subscriptions after each message: `open` opens one, and `close` closes one. */
export const openAfterEach = (messages: ReadonlyArray<string>): ReadonlyArray<number> => {
  let open = 0
  return messages.map((message) => open += message === "open" ? 1 : message === "close" ? -1 : 0)
}

/** The messages without repeats. */
export const deduplicated = (messages: ReadonlyArray<string>): ReadonlyArray<string> => [...new Set(messages)]

export const received = (world: World): ReadonlyArray<string> => world.wires.flatMap(({ received }) => received)

/**
 * A network in which at most `most` connections may be open or dialed at a time. A write takes several steps, and
 * writes must not overlap.
 */
export const inWorld = <E>(
  { WebSocketDialer, isDirect = false }: Modules,
  body: (world: World) => Effect.Effect<unknown, E, Scope.Scope | WebSocketDialerModule.WebSocketDialer>,
  { most = 1, step = Effect.yieldNow() }: { readonly most?: number; readonly step?: Effect.Effect<void> } = {}
): Effect.Effect<void, E> =>
  Effect.gen(function*() {
    const dialer = yield* WebSocketDialer.WebSocketDialer
    const server = yield* WebSocketDialer.TestServer
    const wires: Array<Wire> = []
    const faults: Array<string> = []
    const lines = new Map<unknown, Line>()
    let dials = 0
    let dialing = 0
    let watched: { readonly isClosing: boolean } | undefined
    const live = () => dialing + [...lines.values()].filter(({ isOpen }) => isOpen).length
    const over = (line: Line) => Effect.sync(() => line.isOpen = false)

    const alone = <A, E>(line: Line, what: string, effect: Effect.Effect<A, E>) =>
      Effect.suspend(() => {
        if (line.writing !== undefined) faults.push(`a ${what} while there is a ${line.writing}`)
        line.writing = what
        return Effect.ensuring(Effect.zipRight(step, effect), Effect.sync(() => line.writing = undefined))
      })

    const run = Runtime.runFork(yield* Effect.runtime())
    const writing = (connection: WebSocketDialerModule.Connection, line: Line) => {
      const write: typeof connection.write = (messages) =>
        alone(
          line,
          "write",
          Effect.forEach(messages, (message) => Effect.zipRight(connection.write([message]), step), {
            discard: true
          })
        )
      return isDirect
        ? withWriteNow(write, (messages, onWritten) => void run(Effect.map(write(messages), onWritten)))
        : write
    }

    const noted = (connection: WebSocketDialerModule.Connection, line: Line): WebSocketDialerModule.Connection => ({
      ...connection,
      write: writing(connection, line),
      ping: Option.map(connection.ping, (ping) => alone(line, "ping", ping)),
      close: (code, reason) =>
        Effect.zipRight(line.isStalled ? Effect.void : over(line), connection.close(code, reason)),
      terminate: Effect.zipRight(over(line), connection.terminate)
    })

    const dial: typeof dialer.dial = (request) => {
      if (watched?.isClosing === true) faults.push(`dial ${dials + 1}, though it is closing`)
      return Effect.uninterruptibleMask((restore) => {
        const own = { ...request }
        const line: Line = { isDialed: false, isOpen: false, isStalled: false, writing: undefined }
        lines.set(own, line)
        dials++
        dialing++
        if (live() > most) faults.push(`${live()} connections at dial ${dials}`)
        return Effect.onExit(restore(dialer.dial(own)), (exit) =>
          Effect.sync(() => {
            dialing--
            line.isDialed = line.isOpen = Exit.isSuccess(exit)
          })).pipe(
            Effect.tap(() => Effect.addFinalizer(() => over(line))),
            Effect.map((connection) => noted(connection, line))
          )
      })
    }

    const world: World = {
      wires,
      dials: () => dials,
      dialed: () => [...lines.values()].filter(({ isDialed }) => isDialed).length,
      live,
      attempt: server.attempt,
      watch: (socket) => {
        watched = ownerOf(socket).wiring.orders
        return socket
      },
      open: (attempt, answer = ignored) =>
        Effect.gen(function*() {
          const line = lines.get(attempt.request)!
          const peer = yield* attempt.open()
          const wire: Wire = {
            number: wires.length,
            received: [],
            peer: {
              ...peer,
              // An abandoned dial has no connection that could end.
              ended: Effect.suspend(() => line.isDialed ? peer.ended : Effect.interrupt),
              stall: Effect.zipRight(Effect.sync(() => line.isStalled = true), peer.stall),
              close: (code, reason) => Effect.zipRight(over(line), peer.close(code, reason)),
              reset: Effect.zipRight(over(line), peer.reset)
            }
          }
          wires.push(wire)
          const receiving: Effect.Effect<never> = Effect.flatMap(peer.receive, (message) => {
            wire.received.push(String(message))
            return Effect.zipRight(answer(wire, String(message)), receiving)
          })
          yield* Effect.forkDaemon(receiving)
          return wire
        }),
      serve: (answer, onOpen = () => Effect.void) => {
        const serving: Effect.Effect<never> = Effect.flatMap(
          Effect.flatMap(server.attempt, (attempt) => world.open(attempt, answer)),
          (wire) => Effect.zipRight(onOpen(wire), serving)
        )
        return Effect.asVoid(Effect.forkDaemon(serving))
      }
    }
    yield* Effect.provideService(body(world), WebSocketDialer.WebSocketDialer, { dial })
    assert.deepEqual(faults, [])
  }).pipe(
    Effect.scoped,
    Effect.provide(Layer.merge(WebSocketDialer.layerTest, quiet))
  ) as Effect.Effect<void, E>

export const base = {
  dial: { url: "ws://test" },
  backoff: Schedule.spaced("1 second"),
  heartbeat: false as const
}

export const narrow = { capacity: 2, overflow: "suspend" as const }

export const acknowledge = {
  id: (message: Message) => message,
  acknowledged: (message: Message) =>
    String(message).startsWith("ack ") ? Option.some(String(message).slice(4)) : Option.none()
}

export const acknowledging: Answer = ({ peer }, message) => peer.send(`ack ${message}`)

/** Resets each connection when it has received this many messages; later connections stay. */
export const resettingAfter = (counts: ReadonlyArray<number>, otherwise: Answer = ignored): Answer => (wire, message) =>
  wire.received.length === counts[wire.number] ? wire.peer.reset : otherwise(wire, message)

export const sending = (socket: Sockets, messages: ReadonlyArray<string>) =>
  Effect.forEach(messages, (message) => Effect.zipRight(socket.send(message), Effect.yieldNow()), { discard: true })

/** Reads a stream to its end, or until `onEach` says that it is enough. */
export const reading = <A, E>(
  stream: Stream.Stream<A, E>,
  onEach: (value: A) => boolean | void = () => {}
): Effect.Effect<void, E> =>
  Effect.scoped(Effect.flatMap(Stream.toPull(stream), (pull) => {
    const rest: Effect.Effect<void, Option.Option<E>> = Effect.flatMap(pull, (values) => {
      let isEnough = false
      for (const value of values) isEnough = onEach(value) === true || isEnough
      return isEnough ? Effect.void : rest
    })
    return Effect.catchAll(rest, Option.match({ onNone: () => Effect.void, onSome: Effect.fail }))
  }))

/** The first values of a stream. */
export const firstOf = <A, E>(stream: Stream.Stream<A, E>, count: number): Effect.Effect<ReadonlyArray<A>, E> =>
  Effect.suspend(() => {
    const values: Array<A> = []
    return Effect.as(reading(stream, (value) => values.push(value) >= count), values)
  })

/** A stream that is being read. */
export interface Reading<A> {
  readonly values: ReadonlyArray<A>
  readonly fiber: Fiber.RuntimeFiber<void>
}

export type Events = Reading<ReconnectingSocketModule.SocketEvent>

const readingOf = <A>(stream: Stream.Stream<A>): Effect.Effect<Reading<A>> =>
  Effect.gen(function*() {
    const values: Array<A> = []
    const fiber = yield* Effect.fork(reading(stream, (value) => void values.push(value)))
    // The stream is read from the beginning.
    yield* settled
    return { values, fiber }
  })

/** The socket's events so far, and all of them once it has closed. */
export const eventsOf = (socket: Sockets): Effect.Effect<Events> => readingOf(socket.events)

export const statesOf = (socket: Sockets) => readingOf(socket.stateChanges)

export const dropped = ({ values }: Events): ReadonlyArray<string> =>
  values.flatMap((event) => event._tag === "Dropped" ? [String(event.message)] : [])

export const countOf = ({ values }: Events, tag: ReconnectingSocketModule.SocketEvent["_tag"]): number =>
  values.filter(({ _tag }) => _tag === tag).length

/** Checks that the socket has closed, refuses every call, and has no connection. */
export const isOver = (world: World, socket: Sockets, ...read: ReadonlyArray<Reading<unknown>>) =>
  Effect.gen(function*() {
    assert.equal((yield* socket.state)._tag, "Closed")
    const dials = world.dials()
    for (const { fiber } of read) yield* Fiber.join(fiber)
    const late: ReadonlyArray<Effect.Effect<void, { readonly _tag: string }>> = [
      socket.send("late"),
      socket.deliver("late"),
      socket.flush,
      socket.awaitOpen,
      Effect.scoped(socket.subscribe({ open: "late" }))
    ]
    for (const one of late) {
      const refused = yield* Effect.either(one)
      assert.ok(Either.isLeft(refused) && refused.left._tag === "SocketClosed", String(refused))
    }
    yield* socket.reconnect({ backoff: false })
    yield* socket.close()
    yield* Effect.sleep("1 minute")
    assert.deepEqual([world.dials(), world.live()], [dials, 0])
    for (const wire of world.wires) yield* Effect.exit(wire.peer.ended)
    assert.ok(!received(world).includes("late"))
  })

/** Checks that the socket has closed, and that its streams end for a new reader. */
export const streamsAreOver = (socket: Sockets) =>
  Effect.gen(function*() {
    yield* reading(socket.messages)
    yield* reading(socket.events)
    const states: Array<string> = []
    yield* reading(socket.stateChanges, ({ _tag }) => void states.push(_tag))
    assert.deepEqual(states, ["Closed"])
  })

/** Fibers that wait for the socket in different ways, and must be answered in the end. */
export const waiters = (socket: Sockets) =>
  Effect.forEach(
    [
      socket.send("w0"),
      socket.deliver("w1"),
      socket.deliver("w2"),
      socket.send("w3"),
      socket.flush,
      socket.awaitOpen,
      reading(socket.messages)
    ],
    (waiting: Effect.Effect<void, { readonly _tag: string }>) => Effect.fork(waiting)
  )

export const areAnswered = (waiting: ReadonlyArray<Fiber.RuntimeFiber<void, { readonly _tag: string }>>) =>
  Effect.forEach(waiting, (fiber) =>
    Effect.map(Effect.either(Fiber.join(fiber)), (answer) => {
      if (Either.isLeft(answer)) {
        assert.ok(["SocketClosed", "MessageLost"].includes(answer.left._tag), String(answer.left))
      }
    }))
