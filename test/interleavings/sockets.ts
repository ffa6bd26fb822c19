/**
 * What a reconnecting socket promises, as programs that hold under every interleaving. They take the modules they try,
 * so that ones with a known fault can be tried as well.
 */
import * as Socket from "@effect/platform/Socket"
import type * as ReconnectingSocketModule from "effect-holdfast/ReconnectingSocket"
import { Interleavings } from "effect-holdfast/testing"
import type * as WebSocketDialerModule from "effect-holdfast/WebSocketDialer"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as assert from "node:assert/strict"

export interface Modules {
  readonly ReconnectingSocket: typeof ReconnectingSocketModule
  readonly WebSocketDialer: typeof WebSocketDialerModule
}

type Message = WebSocketDialerModule.Message
type Sockets = ReconnectingSocketModule.ReconnectingSocket<Message, Message>

/** One connection, as the server has it. */
export interface Wire {
  readonly number: number
  readonly peer: WebSocketDialerModule.Peer
  readonly received: Array<string>
}

/** What the server does with a message that has come in. */
type Answer = (wire: Wire, message: string) => Effect.Effect<unknown>

interface Line {
  isDialed: boolean
  isOpen: boolean
  isStalled: boolean
  writing: string | undefined
}

/** The network, which notes what must not be. */
export interface World {
  readonly wires: ReadonlyArray<Wire>
  readonly dials: () => number
  /** Connections that are dialed or open. */
  readonly live: () => number
  /** Waits for the next dial. */
  readonly attempt: Effect.Effect<WebSocketDialerModule.Attempt>
  /** From now on a dial is a fault if this is being closed, or is closed. */
  readonly watch: <A>(socket: A) => A
  /** Opens it, and reads what comes. */
  readonly open: (attempt: WebSocketDialerModule.Attempt, answer?: Answer) => Effect.Effect<Wire, never, Scope.Scope>
  /** Opens all that come. */
  readonly serve: (
    answer?: Answer,
    onOpen?: (wire: Wire) => Effect.Effect<unknown>
  ) => Effect.Effect<void, never, Scope.Scope>
}

const ignored: Answer = () => Effect.void

/** Time passes only when nothing else can happen. */
export const settled = Effect.sleep("1 millis")

const together = <A, E>(effects: ReadonlyArray<Effect.Effect<A, E>>) =>
  Effect.flatMap(Effect.forEach(effects, Effect.fork), Effect.forEach(Fiber.await))

const hasSucceeded = (exit: Exit.Exit<unknown, unknown>): void => assert.ok(Exit.isSuccess(exit), String(exit))

const isIncreasing = (values: ReadonlyArray<string>): boolean =>
  values.every((value, index) => index === 0 || values[index - 1]! < value)

const isOnce = (values: ReadonlyArray<string>): boolean => new Set(values).size === values.length

/** Those of one sender, whose messages are its letter and a number. */
const of = (sender: string, messages: ReadonlyArray<string>): ReadonlyArray<string> =>
  messages.filter((message) => message.startsWith(sender))

/** Without those that come again. */
const deduplicated = (messages: ReadonlyArray<string>): ReadonlyArray<string> => [...new Set(messages)]

export const received = (world: World): ReadonlyArray<string> => world.wires.flatMap(({ received }) => received)

/**
 * A network in which at most so many connections are open or dialed at a time, whose writes take several steps and
 * must not overlap.
 */
export const inWorld = <E>(
  { WebSocketDialer }: Modules,
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

    const noted = (connection: WebSocketDialerModule.Connection, line: Line): WebSocketDialerModule.Connection => ({
      ...connection,
      write: (messages) =>
        alone(
          line,
          "write",
          Effect.forEach(messages, (message) => Effect.zipRight(connection.write([message]), step), {
            discard: true
          })
        ),
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
              // A dial that was given up has no end.
              ended: Effect.suspend(() => line.isDialed ? peer.ended : Effect.interrupt),
              stall: Effect.zipRight(Effect.sync(() => line.isStalled = true), peer.stall),
              close: (code, reason) => Effect.zipRight(over(line), peer.close(code, reason)),
              reset: Effect.zipRight(over(line), peer.reset)
            }
          }
          wires.push(wire)
          yield* Effect.forkScoped(Effect.forever(Effect.flatMap(peer.receive, (message) => {
            wire.received.push(String(message))
            return answer(wire, String(message))
          })))
          return wire
        }),
      serve: (answer, onOpen = () => Effect.void) =>
        Effect.asVoid(Effect.forkScoped(Effect.forever(
          Effect.flatMap(Effect.flatMap(server.attempt, (attempt) => world.open(attempt, answer)), onOpen)
        )))
    }
    yield* Effect.provideService(body(world), WebSocketDialer.WebSocketDialer, { dial })
    assert.deepEqual(faults, [])
  }).pipe(
    Effect.scoped,
    Effect.provide(WebSocketDialer.layerTest)
  ) as Effect.Effect<void, E>

/** Those that mark a fiber for interruption. */
export const interrupted: ReadonlyArray<string> = [
  "an interrupted sender that waits for room takes its message back, or has sent it",
  "an interrupted sender that need not wait has sent its message, or nothing of it",
  "an interrupted delivery takes its message back, or has sent it",
  "an interrupted subscription is given up, or held until its scope closes",
  "an interrupted close goes on",
  "one that is interrupted as it waits for the opening or the flush leaves nothing behind"
]

/** Those that hold however slow the machine is: a timer may strike at any moment. */
export const slow: ReadonlyArray<string> = [
  "closing is finished, and final: while dialing",
  "closing is finished, and final: while opening",
  "closing is finished, and final: while open",
  "closing is finished, and final: while waiting"
]

export const scenarios = (modules: Modules) => {
  const { ReconnectingSocket } = modules

  const base = {
    dial: { url: "ws://test" },
    backoff: Schedule.spaced("1 second"),
    heartbeat: false as const
  }

  const acknowledge = {
    id: (message: Message) => message,
    acknowledged: (message: Message) =>
      String(message).startsWith("ack ") ? Option.some(String(message).slice(4)) : Option.none()
  }

  const acknowledging: Answer = ({ peer }, message) => peer.send(`ack ${message}`)

  /** Resets the n-th connection when it has received so many. */
  const resettingAfter = (counts: ReadonlyArray<number>, otherwise: Answer = ignored): Answer => (wire, message) =>
    wire.received.length === counts[wire.number] ? wire.peer.reset : otherwise(wire, message)

  const inWorldOf = <E>(
    body: (world: World) => Effect.Effect<unknown, E, Scope.Scope | WebSocketDialerModule.WebSocketDialer>,
    options?: { readonly most?: number; readonly step?: Effect.Effect<void> }
  ) => inWorld(modules, body, options)

  const sending = (socket: Sockets, messages: ReadonlyArray<string>) =>
    Effect.forEach(messages, (message) => Effect.zipRight(socket.send(message), Effect.yieldNow()), { discard: true })

  /** What has happened; all of it once the socket is closed. */
  const eventsOf = (socket: Sockets) =>
    Effect.gen(function*() {
      const events: Array<ReconnectingSocketModule.SocketEvent> = []
      const states: Array<ReconnectingSocketModule.ConnectionState> = []
      const reading = [
        yield* Effect.forkScoped(Stream.runForEach(socket.events, (event) => Effect.sync(() => events.push(event)))),
        yield* Effect.forkScoped(
          Stream.runForEach(socket.stateChanges, (state) => Effect.sync(() => states.push(state)))
        )
      ]
      // So that they read from the beginning.
      yield* settled
      return { events, states, reading }
    })

  type Events = Effect.Effect.Success<ReturnType<typeof eventsOf>>

  const dropped = ({ events }: Events): ReadonlyArray<string> =>
    events.flatMap((event) => event._tag === "Dropped" ? [String(event.message)] : [])

  const countOf = ({ events }: Events, tag: ReconnectingSocketModule.SocketEvent["_tag"]): number =>
    events.filter(({ _tag }) => _tag === tag).length

  /** It has been closed: nothing more comes of it. */
  const isOver = (world: World, socket: Sockets, seen?: Events) =>
    Effect.gen(function*() {
      assert.equal((yield* socket.state)._tag, "Closed")
      const dials = world.dials()
      // All streams end, for those who have read and for those who begin.
      for (const reading of seen?.reading ?? []) yield* Fiber.join(reading)
      yield* Stream.runDrain(socket.messages)
      yield* Stream.runDrain(socket.events)
      assert.equal(Chunk.size(yield* Stream.runCollect(socket.stateChanges)), 1)
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
      yield* socket.reconnect
      yield* socket.close()
      yield* Effect.sleep("1 minute")
      assert.deepEqual([world.dials(), world.live()], [dials, 0])
      for (const wire of world.wires) yield* Effect.exit(wire.peer.ended)
      assert.ok(!received(world).includes("late"))
    })

  /** Closed at a moment, with all kinds of fibers about that wait, it is over within its grace. */
  const closing = (
    body: (world: World) => Effect.Effect<Sockets, unknown, Scope.Scope | WebSocketDialerModule.WebSocketDialer>,
    options?: { readonly most?: number }
  ) =>
    inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* body(world)
        const began = yield* Clock.currentTimeMillis
        yield* socket.close()
        assert.ok((yield* Clock.currentTimeMillis) - began <= 2_000, "the closing took longer than its grace")
        yield* isOver(world, socket)
      }), options)

  /** Who waits for something of the socket, and is answered in the end. */
  const waiters = (socket: Sockets) =>
    Effect.forEach(
      [
        socket.send("w0"),
        socket.deliver("w1"),
        socket.deliver("w2"),
        socket.send("w3"),
        socket.flush,
        socket.awaitOpen,
        Stream.runDrain(socket.messages)
      ],
      (waiting: Effect.Effect<void, { readonly _tag: string }>) => Effect.fork(waiting)
    )

  const areAnswered = (waiting: ReadonlyArray<Fiber.RuntimeFiber<void, { readonly _tag: string }>>) =>
    Effect.forEach(waiting, (fiber) =>
      Effect.map(Effect.either(Fiber.join(fiber)), (answer) => {
        if (Either.isLeft(answer)) {
          assert.ok(["SocketClosed", "MessageLost"].includes(answer.left._tag), String(answer.left))
        }
      }))

  const narrow = { capacity: 2, overflow: "suspend" as const }

  return {
    "messages of several senders arrive at most once, in each one's order, though connections break": inWorldOf((
      world
    ) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const seen = yield* eventsOf(socket)
        yield* world.serve(resettingAfter([1, 2]))
        for (
          const exit of yield* together([sending(socket, ["a1", "a2", "a3"]), sending(socket, ["b1", "b2", "b3"])])
        ) {
          hasSucceeded(exit)
        }
        yield* socket.flush
        yield* settled
        yield* socket.close()
        yield* settled
        const all = received(world)
        assert.ok(isOnce(all), String(all))
        for (const sender of ["a", "b"]) assert.ok(isIncreasing(of(sender, all)), String(all))
        assert.deepEqual(deduplicated([...all, ...dropped(seen)]).toSorted(), ["a1", "a2", "a3", "b1", "b2", "b3"])
      })
    ),

    "messages arrive in order and none is lost where they are acknowledged, though connections break": inWorldOf((
      world
    ) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, acknowledge: { ...acknowledge, window: 3 } })
        const seen = yield* eventsOf(socket)
        yield* world.serve(resettingAfter([2, 3], acknowledging))
        for (
          const exit of yield* together([
            sending(socket, ["a1", "a2", "a3"]),
            sending(socket, ["b1", "b2", "b3"]),
            Effect.zipRight(socket.deliver("c1"), socket.deliver("c2"))
          ])
        ) {
          hasSucceeded(exit)
        }
        yield* socket.flush
        yield* socket.close()
        yield* settled
        const all = received(world)
        for (const sender of ["a", "b", "c"]) assert.ok(isIncreasing(of(sender, deduplicated(all))), String(all))
        assert.deepEqual(deduplicated(all).toSorted(), ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2"])
        // What comes again comes in the order it had: each connection goes on where the acknowledgements end.
        const order = deduplicated(all)
        for (const wire of world.wires) {
          const places = wire.received.map((message) => order.indexOf(message))
          places.forEach((place, index) => assert.ok(index === 0 || place === places[index - 1]! + 1, String(all)))
        }
        assert.deepEqual(dropped(seen), [])
      })
    ),

    "what is accepted after a connection has ended is not lost with it": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const first = yield* world.open(yield* world.attempt)
        yield* socket.awaitOpen
        yield* first.peer.reset
        const delivering = yield* Effect.fork(socket.deliver("a1"))
        yield* socket.send("a2")
        const second = yield* world.open(yield* world.attempt)
        yield* Fiber.join(delivering)
        yield* socket.flush
        yield* settled
        assert.deepEqual(second.received.toSorted(), ["a1", "a2"])
        yield* socket.close()
      })
    ),

    "there is one connection at a time, however it is asked to reconnect": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const seen = yield* eventsOf(socket)
        yield* world.serve(resettingAfter([1]), (wire) => wire.number === 2 ? wire.peer.close(1001) : Effect.void)
        yield* socket.awaitOpen
        for (
          const exit of yield* together([
            socket.reconnect,
            sending(socket, ["a1", "a2"]),
            Effect.zipRight(Effect.sleep("1 second"), socket.reconnect)
          ])
        ) {
          hasSucceeded(exit)
        }
        yield* Effect.sleep("5 seconds")
        yield* socket.awaitOpen
        yield* socket.flush
        yield* settled
        assert.equal(world.live(), 1)
        yield* socket.close()
        yield* isOver(world, socket, seen)
        assert.ok(isOnce(received(world)) && isIncreasing(received(world)), String(received(world)))
      })
    ),

    "nothing overtakes the login and the subscriptions, on no connection": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({
          ...base,
          onOpen: ({ receive, send }) => Effect.all([send("login"), receive, send("login 2")])
        })
        const delivering = yield* Effect.fork(
          Effect.forEach(["a1", "a2", "a3", "a4"], (message) => Effect.exit(socket.deliver(message)))
        )
        yield* socket.subscribe({ open: "early" })
        yield* Effect.forkScoped(Effect.zipRight(Effect.yieldNow(), socket.subscribe({ open: "late" })))
        yield* world.serve((wire, message) =>
          message === "login" ? wire.peer.send("welcome") : message === "a1" ? wire.peer.reset : Effect.void
        )
        yield* Fiber.join(delivering)
        yield* settled
        for (const { number, received } of world.wires) {
          const all = String(received)
          if (number === 0 && received.length < 3) continue
          assert.deepEqual(received.slice(0, 3), ["login", "login 2", "early"], all)
          assert.ok(isIncreasing(of("a", received).filter((message) => message !== "early")), all)
          if (number > 0) assert.equal(received[3], "late", all)
          assert.equal(received.filter((message) => message === "late").length <= 1, true, all)
        }
        yield* socket.close()
      })
    ),

    "a subscription is open on each connection or on none": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        yield* world.serve((wire, message) => message === "a1" ? wire.peer.reset : Effect.void)
        const subscribing = Effect.scoped(
          Effect.zipRight(socket.subscribe({ open: "open", close: "close" }), Effect.yieldNow())
        )
        for (const exit of yield* together([subscribing, sending(socket, ["a1", "a2"]), subscribing])) {
          hasSucceeded(exit)
        }
        yield* Effect.sleep("2 seconds")
        yield* socket.awaitOpen
        yield* settled
        for (const { received } of world.wires) {
          let open = 0
          for (const message of received) {
            if (message === "open") open++
            if (message === "close") assert.ok(--open >= 0, String(received))
          }
          if (received === world.wires.at(-1)!.received) assert.equal(open, 0, String(received))
        }
        yield* socket.close()
      })
    ),

    "what comes in is told once, in order, across connections": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        yield* world.serve(ignored, ({ number, peer }) =>
          Effect.orDie(socket.awaitOpen).pipe(
            Effect.zipRight(Effect.forEach(["1", "2", "3"], (message) => peer.send(`${number}${message}`))),
            Effect.zipRight(number === 0 ? peer.reset : number === 1 ? peer.close(1000) : Effect.void)
          ))
        const messages = yield* Stream.runCollect(Stream.take(socket.messages, 9))
        assert.deepEqual([...messages], ["01", "02", "03", "11", "12", "13", "21", "22", "23"])
        yield* socket.close()
      })
    ),

    "what a peer says before it hangs up is told, however soon that is": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        yield* world.serve(ignored, ({ number, peer }) =>
          number === 0 ? Effect.zipRight(peer.send("busy"), peer.close(1013)) : peer.send("hello"))
        assert.deepEqual([...yield* Stream.runCollect(Stream.take(socket.messages, 2))], ["busy", "hello"])
        yield* socket.close()
      })
    ),

    "each connection that is lost is one loss, and one next attempt": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({
          ...base,
          onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
        })
        const seen = yield* eventsOf(socket)
        yield* world.serve(
          ({ number, peer }, message) =>
            number === 1 && message === "login"
              ? peer.close(1011)
              : message === "login"
              ? peer.send("welcome")
              : peer.reset,
          ({ number, peer }) => number === 0 ? together([peer.reset, peer.close(1000)]) : Effect.void
        )
        yield* Effect.forkScoped(Effect.exit(sending(socket, ["a1"])))
        yield* Effect.sleep("10 seconds")
        yield* socket.awaitOpen
        yield* socket.close()
        yield* isOver(world, socket, seen)
        // The last one was closed.
        const lost = seen.states.filter(({ _tag }) => _tag === "Opening").length - 1
        assert.deepEqual(
          [countOf(seen, "Lost"), countOf(seen, "Waiting"), countOf(seen, "Closed")],
          [lost, world.dials() - 1, 1]
        )
        // The states are those of the picture, each once.
        const follows: Record<string, ReadonlyArray<string>> = {
          Dialing: ["Opening", "Waiting", "Closed"],
          Opening: ["Open", "Waiting", "Closed"],
          Open: ["Waiting", "Closed"],
          Waiting: ["Dialing", "Closed"],
          Closed: []
        }
        seen.states.forEach(({ _tag }, index) => {
          if (index > 0) assert.ok(follows[seen.states[index - 1]!._tag]!.includes(_tag), JSON.stringify(seen.states))
        })
      })
    ),

    "one that gives up says so to all who wait": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, outbox: { capacity: 1, overflow: "suspend" } })
        const seen = yield* eventsOf(socket)
        yield* socket.send("a1")
        const closed = yield* Effect.forEach([socket.send("a2"), socket.deliver("a3"), socket.flush], (one) =>
          Effect.fork(one))
        const failed = yield* Effect.forEach([socket.awaitOpen, Stream.runDrain(socket.messages)], (one) =>
          Effect.fork(one))
        yield* settled
        const attempt = yield* world.attempt
        yield* attempt.refuse(403)
        for (const fiber of closed) {
          const end = yield* Effect.either(Fiber.join<void, { readonly _tag: string }>(fiber))
          assert.ok(Either.isLeft(end) && end.left._tag === "SocketClosed")
          const { info } = end.left as ReconnectingSocketModule.SocketClosed
          assert.ok(Option.isSome(info.failure), "it does not say why")
        }
        for (const fiber of failed) {
          const end = yield* Effect.either(Fiber.join<void, { readonly _tag: string }>(fiber))
          assert.ok(Either.isLeft(end) && end.left._tag === "SocketFailed")
        }
        for (const reading of seen.reading) {
          yield* Fiber.join(reading)
        }
        assert.deepEqual(dropped(seen), ["a1"])
        assert.deepEqual([world.dials(), world.live()], [1, 0])
      })
    ),

    "closing is finished, and final: while dialing": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        const waiting = yield* waiters(socket)
        const attempt = yield* world.attempt
        yield* Effect.forkScoped(Effect.zipRight(Effect.yieldNow(), world.open(attempt)))
        yield* together([socket.close(), socket.close(4000, "bye")])
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing is finished, and final: while opening": closing((world) =>
      Effect.gen(function*() {
        const opening = yield* Deferred.make<void>()
        const socket = world.watch(
          yield* ReconnectingSocket.make({
            ...base,
            outbox: narrow,
            onOpen: ({ receive, send }) => Effect.all([Deferred.succeed(opening, undefined), send("login"), receive])
          })
        )
        yield* world.serve(({ peer }) => peer.send("welcome"))
        const waiting = yield* waiters(socket)
        yield* Deferred.await(opening)
        yield* socket.close()
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing is finished, and final: while open": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        yield* world.serve()
        yield* socket.awaitOpen
        const waiting = yield* waiters(socket)
        yield* Effect.yieldNow()
        yield* socket.close()
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing is finished, and final: while waiting": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        const attempt = yield* world.attempt
        const waiting = yield* waiters(socket)
        yield* attempt.fail()
        yield* Stream.runHead(Stream.filter(socket.stateChanges, ({ _tag }) => _tag === "Waiting"))
        yield* socket.close()
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing is finished, and final: from the login, and from a subscriber of its messages": closing((world) =>
      Effect.gen(function*() {
        const made = yield* Deferred.make<Sockets>()
        const socket: Sockets = world.watch(
          yield* ReconnectingSocket.make({
            ...base,
            outbox: narrow,
            onOpen: ({ send }) =>
              Effect.all([send("login"), Effect.flatMap(Deferred.await(made), (socket) => socket.close())])
          })
        )
        yield* world.serve(ignored, ({ peer }) => peer.send("hello"))
        yield* Deferred.succeed(made, socket)
        yield* Stream.runForEach(socket.messages, () => socket.close())
        return socket
      })
    ),

    "closing is finished, and final: together with a reset": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        const { peer } = yield* world.open(yield* world.attempt)
        yield* socket.awaitOpen
        const waiting = yield* waiters(socket)
        yield* together([peer.reset, socket.close()])
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing is finished, and final: together with a reconnect": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        yield* world.serve()
        yield* socket.awaitOpen
        const waiting = yield* waiters(socket)
        yield* together([socket.reconnect, Effect.zipRight(Effect.yieldNow(), socket.close()), socket.reconnect])
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing is finished, and final: together with a renewal": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(
          yield* ReconnectingSocket.make({
            ...base,
            renewAfter: "1 minute",
            outbox: narrow,
            onOpen: ({ send }) => send("login")
          })
        )
        const first = yield* world.open(yield* world.attempt)
        yield* socket.awaitOpen
        const next = yield* world.attempt
        const waiting = yield* waiters(socket)
        yield* together([
          Effect.scoped(Effect.asVoid(world.open(next))),
          Effect.zipRight(Effect.yieldNow(), socket.close())
        ])
        yield* areAnswered(waiting)
        yield* settled
        assert.ok(first.received.length > 0)
        return socket
      }), { most: 2 }),

    "closing delivers what was accepted, also while it moves over to a new connection": inWorldOf(
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute" })
          const seen = yield* eventsOf(socket)
          yield* world.serve(ignored, ({ number }) =>
            number === 0
              ? Effect.void
              : Effect.zipRight(sending(socket, ["a1", "a2", "a3"]), socket.close()).pipe(Effect.orDie))
          for (const reading of seen.reading) {
            yield* Fiber.join(reading)
          }
          yield* settled
          assert.deepEqual([received(world), dropped(seen)], [["a1", "a2", "a3"], []])
          yield* isOver(world, socket, seen)
        }),
      { most: 2 }
    ),

    "asked to reconnect at any time, it does so at once": inWorldOf((world) =>
      Effect.gen(function*() {
        const opening = yield* Deferred.make<void>()
        const socket = yield* ReconnectingSocket.make({
          ...base,
          backoff: Schedule.spaced("1 hour"),
          onOpen: ({ receive, send }) => Effect.all([Deferred.succeed(opening, undefined), send("login"), receive])
        })
        // The first dial hangs.
        yield* world.attempt
        yield* socket.reconnect
        // The second connection never welcomes.
        yield* world.open(yield* world.attempt)
        yield* Deferred.await(opening)
        yield* socket.reconnect
        const third = yield* world.open(yield* world.attempt, ({ peer }) => peer.send("welcome"))
        yield* socket.awaitOpen
        yield* together([socket.reconnect, third.peer.reset])
        const fourth = yield* Effect.race(
          world.attempt,
          // The reset was seen first, and the reconnect came to its connection's end.
          Effect.zipRight(Effect.sleep("1 second"), Effect.zipRight(socket.reconnect, Effect.never))
        )
        yield* world.open(fourth, ({ peer }) => peer.send("welcome"))
        yield* socket.awaitOpen
        yield* settled
        assert.equal(world.live(), 1)
        assert.ok((yield* Clock.currentTimeMillis) <= 2_000)
        yield* socket.close()
        yield* isOver(world, socket)
        // A dial that is given up ends beside the next one.
      }), { most: 2 }),

    "moving over loses nothing, and is no loss": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({
          ...base,
          renewAfter: "1 minute",
          onOpen: ({ send }) => send("login")
        })
        const seen = yield* eventsOf(socket)
        yield* socket.subscribe({ open: "subscribe" })
        yield* world.serve()
        yield* socket.awaitOpen
        yield* sending(socket, ["a1", "a2"])
        while (world.wires.length < 2) yield* Effect.sleep("100 millis")
        yield* sending(socket, ["a3", "a4", "a5"])
        yield* socket.flush
        yield* settled
        const messages = received(world).filter((message) => message.startsWith("a"))
        assert.deepEqual(messages, ["a1", "a2", "a3", "a4", "a5"])
        assert.deepEqual(world.wires[1]!.received.slice(0, 2), ["login", "subscribe"])
        yield* socket.close()
        yield* isOver(world, socket, seen)
        assert.deepEqual([countOf(seen, "Lost"), countOf(seen, "Dropped"), countOf(seen, "Opened")], [0, 0, 2])
      }), { most: 2 }),

    "moving over while senders send loses nothing that is to be acknowledged": inWorldOf(
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute", acknowledge })
          const seen = yield* eventsOf(socket)
          const moved = yield* Deferred.make<void>()
          yield* world.serve(acknowledging, ({ number }) =>
            number === 1 ? Deferred.succeed(moved, undefined) : Effect.void)
          yield* Deferred.await(moved)
          for (
            const exit of yield* together([
              sending(socket, ["a1", "a2"]),
              Effect.zipRight(socket.deliver("b1"), socket.deliver("b2"))
            ])
          ) {
            hasSucceeded(exit)
          }
          yield* socket.flush
          yield* socket.close()
          yield* settled
          const all = deduplicated(received(world))
          for (const sender of ["a", "b"]) {
            assert.ok(isIncreasing(of(sender, all)), String(all))
          }
          assert.deepEqual(all.toSorted(), ["a1", "a2", "b1", "b2"])
          assert.deepEqual([countOf(seen, "Lost"), countOf(seen, "Dropped")], [0, 0])
        }),
      { most: 2 }
    ),

    "a renewal whose connections break is given up or a loss, and the socket goes on": inWorldOf(
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute", acknowledge })
          const seen = yield* eventsOf(socket)
          const renewing = yield* Deferred.make<void>()
          yield* world.serve(acknowledging, ({ number, peer }) =>
            number === 0
              ? Effect.forkDaemon(Effect.zipRight(Deferred.await(renewing), peer.reset))
              : number === 1
              ? Effect.zipRight(
                Deferred.succeed(renewing, undefined),
                Effect.forkDaemon(Effect.zipRight(Effect.yieldNow(), peer.reset))
              )
              : Effect.void)
          yield* Deferred.await(renewing)
          hasSucceeded(yield* Effect.exit(Effect.forEach(["a1", "a2", "a3"], (message) => socket.deliver(message))))
          yield* socket.close()
          yield* isOver(world, socket, seen)
          const all = deduplicated(received(world))
          assert.deepEqual(all, ["a1", "a2", "a3"])
          assert.ok(countOf(seen, "Lost") <= 2)
        }),
      { most: 2 }
    ),

    "a subscription that ends while it moves over ends": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute" })
        const moving = yield* Deferred.make<void>()
        yield* world.serve(ignored, ({ number, peer }) =>
          number === 0
            ? Effect.void
            : Effect.zipRight(Deferred.succeed(moving, undefined), number === 1 ? peer.reset : Effect.void))
        yield* Deferred.await(moving)
        yield* sending(socket, ["a1"])
        yield* Effect.scoped(Effect.zipRight(socket.subscribe({ open: "open", close: "close" }), Effect.yieldNow()))
        yield* socket.send("a2")
        yield* socket.flush
        yield* settled
        for (const { number, received } of world.wires) {
          const subscription = String(received.filter((message) => !message.startsWith("a")))
          // One that was moved away from was closed itself.
          const isLeft = number < world.wires.length - 1
          assert.ok(["", "open,close", ...isLeft ? ["open"] : []].includes(subscription), String(received))
        }
        yield* socket.close()
      }), { most: 2 }),

    "all who wait are answered, though connections break": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, outbox: narrow })
        const seen = yield* eventsOf(socket)
        yield* world.serve(resettingAfter([1, 1]))
        const waiting = yield* waiters(socket)
        yield* areAnswered(waiting.slice(0, -1))
        yield* socket.awaitOpen
        yield* socket.close()
        yield* areAnswered(waiting)
        yield* isOver(world, socket, seen)
      })
    ),

    "writes and pings take turns, and a peer that answers is alive": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({
          ...base,
          heartbeat: { interval: "1 second", timeout: "1 second" }
        })
        const seen = yield* eventsOf(socket)
        yield* world.serve()
        // The pings come at full seconds, when something is being written.
        yield* Effect.sleep("990 millis")
        yield* together([
          sending(socket, ["a1", "a2"]),
          Effect.zipRight(Effect.sleep("1 second"), sending(socket, ["a3", "a4"]))
        ])
        yield* Effect.sleep("3 seconds")
        yield* socket.close()
        yield* isOver(world, socket, seen)
        assert.deepEqual(countOf(seen, "Lost"), 0)
        assert.equal(received(world).length, 4)
      }), { step: Effect.sleep("20 millis") }),

    "a peer that is silent is lost, and the next connection serves": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({
          ...base,
          acknowledge,
          heartbeat: { interval: "1 second", timeout: "1 second" }
        })
        const seen = yield* eventsOf(socket)
        yield* world.serve(acknowledging, ({ number, peer }) => number === 0 ? peer.stall : Effect.void)
        yield* together([
          sending(socket, ["a1", "a2"]),
          Effect.zipRight(Effect.sleep("2 seconds"), sending(socket, ["a3"]))
        ])
        yield* socket.flush
        yield* socket.close()
        yield* isOver(world, socket, seen)
        assert.deepEqual(deduplicated(received(world)), ["a1", "a2", "a3"])
        assert.equal(countOf(seen, "Lost"), 1)
      })
    ),

    "the reader stops at the end of a connection, whatever the transport says then": Effect.gen(function*() {
      // A transport that goes on telling when it has ended.
      const listeners: Array<WebSocketDialerModule.Listener> = []
      const { ConnectionClosed, WebSocketDialer } = modules.WebSocketDialer
      const connection: WebSocketDialerModule.Connection = {
        protocol: "",
        listen: (listener) => Effect.sync(() => listeners.push(listener)),
        write: () => Effect.void,
        ping: Option.none(),
        backpressure: Option.none(),
        close: (code = 1000, reason = "") =>
          Effect.sync(() => listeners.at(-1)!.onEnd(new ConnectionClosed({ code, reason }))),
        terminate: Effect.void
      }
      const socket = yield* ReconnectingSocket.make(base).pipe(
        Effect.provideService(WebSocketDialer, { dial: () => Effect.succeed(connection) })
      )
      const seen = yield* eventsOf(socket)
      yield* socket.awaitOpen
      listeners[0]!.onMessage("1")
      listeners[0]!.onEnd(new ConnectionClosed({ code: 1000, reason: "" }))
      listeners[0]!.onMessage("2")
      yield* Effect.yieldNow()
      listeners[0]!.onMessage("3")
      listeners[0]!.onEnd(new ConnectionClosed({ code: 1001, reason: "" }))
      yield* Effect.sleep("1 second")
      yield* socket.awaitOpen
      listeners[1]!.onMessage("4")
      assert.deepEqual([...yield* Stream.runCollect(Stream.take(socket.messages, 2))], ["1", "4"])
      yield* socket.close()
      for (const reading of seen.reading) yield* Fiber.join(reading)
      assert.deepEqual([countOf(seen, "Lost"), listeners.length], [1, 2])
    }).pipe(Effect.scoped),

    "the backoff goes on through an outage, begins anew after a stable connection, and is never longer than a timer":
      inWorldOf(
        (world) =>
          Effect.gen(function*() {
            const socket = yield* ReconnectingSocket.make({
              ...base,
              backoff: Schedule.exponential("1 second", 10),
              stableAfter: "30 seconds"
            })
            const began: Array<number> = []
            const waits: Array<number> = []
            yield* Effect.forkScoped(Stream.runForEach(socket.events, (event) =>
              Effect.map(Clock.currentTimeMillis, (now) => {
                if (event._tag === "Waiting") waits.push(now)
                if (event._tag === "Dialing" && waits.length > began.length) began.push(now)
              })))
            yield* settled
            const fail = Effect.flatMap(world.attempt, ({ fail }) =>
              fail())
            yield* fail
            // One that opens and fails is part of the outage.
            const flapping = yield* world.open(yield* world.attempt)
            yield* socket.awaitOpen
            yield* flapping.peer.reset
            yield* fail
            const stable = yield* world.open(yield* world.attempt)
            yield* socket.awaitOpen
            yield* Effect.sleep("30 seconds")
            yield* stable.peer.reset
            for (let i = 0; i < 8; i++) yield* fail
            yield* world.attempt
            yield* settled
            yield* socket.close()
            const longest = 2 ** 31 - 1
            assert.deepEqual(
              began.map((at, index) => at - waits[index]!),
              [1, 10, 100, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
                .map((seconds) => Math.min(seconds * 1_000, longest))
            )
          })
      ),

    "as a platform's socket, a run ends with each connection and the next is on the next, and no write hangs":
      inWorldOf(
        (world) =>
          Effect.gen(function*() {
            const self = yield* ReconnectingSocket.make(base)
            const socket = ReconnectingSocket.toSocket(self)
            yield* world.serve(resettingAfter([2, 1]), ({ number, peer }) => peer.send(`hello ${number}`))
            const heard: Array<string> = []
            const running = yield* Effect.fork(
              Effect.retry(socket.runRaw((message) => void heard.push(String(message))), {
                while: (error) => error.reason !== "Open"
              })
            )
            const writing = Effect.flatMap(socket.writer, (write) =>
              Effect.forEach(["a1", "a2", "a3", "a4"], (message) =>
                Effect.zipRight(Effect.yieldNow(), write(message))))
            hasSucceeded(yield* Effect.exit(Effect.scoped(writing)))
            yield* Effect.sleep("3 seconds")
            yield* self.awaitOpen
            yield* settled
            yield* self.close()
            hasSucceeded(yield* Fiber.await(running))
            yield* isOver(world, self)
            // One that is reset before it is greeted has nothing to tell.
            assert.ok(isOnce(heard) && isIncreasing(heard), String(heard))
            assert.equal(heard.at(-1), `hello ${world.wires.length - 1}`)
            assert.ok(isOnce(received(world)) && isIncreasing(received(world)), String(received(world)))
          })
      ),

    "as a platform's socket, closed at any time, runs and writes end": inWorldOf((world) =>
      Effect.gen(function*() {
        const self = yield* ReconnectingSocket.make(base)
        const socket = ReconnectingSocket.toSocket(self)
        const run = yield* Effect.fork(socket.runRaw(() => Effect.yieldNow()))
        const writing = yield* Effect.fork(Effect.scoped(Effect.flatMap(socket.writer, (write) =>
          Effect.all([write("a1"), write("a2"), write(new Socket.CloseEvent(1000)), write("a3")]))))
        yield* Effect.forkScoped(Effect.flatMap(world.attempt, (attempt) =>
          world.open(attempt)))
        yield* Effect.yieldNow()
        yield* self.close()
        const end = yield* Effect.either(Fiber.join(run))
        if (Either.isLeft(end)) assert.equal(end.left.reason, "Close")
        hasSucceeded(yield* Fiber.await(writing))
        yield* isOver(world, self)
      })
    ),

    "an interrupted sender that waits for room takes its message back, or has sent it": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, outbox: { capacity: 1, overflow: "suspend" } })
        yield* socket.send("a1")
        const victim = yield* Effect.fork(Interleavings.victim(socket.send("v")))
        const behind = yield* Effect.fork(socket.send("a2"))
        yield* Effect.yieldNow()
        yield* world.serve()
        const exit = yield* Fiber.await(victim)
        yield* Fiber.join(behind)
        yield* socket.flush
        yield* settled
        const all = received(world)
        assert.deepEqual(all.filter((message) => message !== "v"), ["a1", "a2"])
        if (Exit.isSuccess(exit)) assert.ok(all.includes("v"))
        assert.ok(isOnce(all))
        yield* roomFor(socket, world, 1)
        yield* socket.close()
      })
    ),

    "an interrupted sender that need not wait has sent its message, or nothing of it": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, outbox: narrow })
        yield* world.serve()
        yield* socket.awaitOpen
        const victim = yield* Effect.fork(Interleavings.victim(sending(socket, ["v1", "v2", "v3"])))
        const other = yield* Effect.fork(sending(socket, ["a1", "a2"]))
        const exit = yield* Fiber.await(victim)
        yield* Fiber.join(other)
        yield* socket.flush
        yield* settled
        const all = received(world)
        assert.ok(isOnce(all))
        assert.deepEqual(of("a", all), ["a1", "a2"])
        const own = ["v1", "v2", "v3"]
        assert.deepEqual(of("v", all), own.slice(0, of("v", all).length))
        if (Exit.isSuccess(exit)) assert.deepEqual(of("v", all), own)
        yield* roomFor(socket, world, 2)
        yield* socket.close()
      })
    ),

    "an interrupted delivery takes its message back, or has sent it": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, acknowledge, outbox: narrow })
        yield* socket.send("a1")
        const victim = yield* Effect.fork(Interleavings.victim(socket.deliver("v")))
        const behind = yield* Effect.fork(socket.deliver("a2"))
        yield* Effect.yieldNow()
        yield* world.serve(resettingAfter([2], acknowledging))
        const exit = yield* Fiber.await(victim)
        yield* Fiber.join(behind)
        yield* socket.flush
        yield* settled
        const all = deduplicated(received(world))
        assert.deepEqual(all.filter((message) => message !== "v"), ["a1", "a2"], String(all))
        if (Exit.isSuccess(exit)) assert.ok(all.includes("v"))
        yield* roomFor(socket, world, 2)
        yield* socket.close()
      })
    ),

    "an interrupted subscription is given up, or held until its scope closes": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        yield* world.serve()
        const subscribing = Effect.scoped(
          Effect.zipRight(socket.subscribe({ open: "open", close: "close" }), Effect.yieldNow())
        )
        const victims = [
          yield* Effect.fork(Interleavings.victim(subscribing)),
          yield* Effect.fork(Effect.zipRight(socket.awaitOpen, Interleavings.victim(subscribing)))
        ]
        for (const victim of victims) yield* Fiber.await(victim)
        yield* socket.awaitOpen
        yield* settled
        const [wire] = world.wires
        const sequences = ["", "open,close", "open,close,open,close", "open,open,close,close"]
        assert.ok(sequences.includes(String(wire!.received)), String(wire!.received))
        // Nothing is left of it on the next connection.
        yield* wire!.peer.reset
        yield* Effect.sleep("1 second")
        yield* socket.awaitOpen
        yield* settled
        assert.deepEqual(world.wires[1]!.received, [])
        yield* socket.close()
      })
    ),

    "an interrupted close goes on": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const seen = yield* eventsOf(socket)
        yield* world.serve()
        yield* socket.awaitOpen
        yield* sending(socket, ["a1", "a2"])
        const victim = yield* Effect.fork(Interleavings.victim(socket.close(4000, "bye")))
        const exit = yield* Fiber.await(victim)
        yield* Effect.sleep("3 seconds")
        const state = yield* socket.state
        if (Exit.isSuccess(exit)) assert.equal(state._tag, "Closed")
        // It was interrupted before it had begun, or not at all.
        if (state._tag !== "Closed") {
          assert.equal(state._tag, "Open")
          yield* socket.send("a3")
          yield* socket.close(4000, "bye")
        }
        yield* isOver(world, socket, seen)
        assert.deepEqual(received(world).slice(0, 2), ["a1", "a2"])
        assert.deepEqual(dropped(seen), [])
        const end = yield* world.wires[0]!.peer.ended
        assert.ok(end._tag === "ConnectionClosed" && end.code === 4000)
      })
    ),

    "one that is interrupted as it waits for the opening or the flush leaves nothing behind": inWorldOf((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        // Its own fiber waits for a command, while it dials and while it is open.
        yield* settled
        const before = watchersOf(socket)
        yield* socket.send("a1")
        const victims = yield* Effect.forEach(
          [socket.awaitOpen, socket.flush],
          (waiting) => Effect.fork(Interleavings.victim(waiting))
        )
        yield* Effect.yieldNow()
        yield* world.serve()
        for (const victim of victims) yield* Fiber.await(victim)
        yield* socket.awaitOpen
        yield* socket.flush
        yield* settled
        assert.deepEqual([received(world), watchersOf(socket)], [["a1"], before])
        yield* socket.close()
      })
    )
  }

  /** It takes as much as it could in the beginning, and no more. */
  function roomFor(socket: Sockets, world: World, capacity: number) {
    return Effect.gen(function*() {
      // Stalled, the connection takes nothing.
      yield* world.wires.at(-1)!.peer.stall
      const fitting = Array.from({ length: capacity }, (_, index) => socket.send(`r${index}`))
      for (const exit of yield* together(fitting)) hasSucceeded(exit)
      const waiting = yield* Effect.fork(socket.send("r"))
      yield* settled
      assert.equal(waiting.unsafePoll(), null)
      yield* Fiber.interrupt(waiting)
    })
  }
}

/** What the tests look at in the inside of a socket. */
interface Owner {
  readonly whenMoved: { readonly size: number }
  readonly wiring: {
    readonly orders: { readonly isClosing: boolean; readonly whenOrdered: { readonly size: number } }
    readonly outbox: { readonly whenGone: { readonly size: number } }
  }
}

const ownerOf = (socket: unknown): Owner => (socket as { readonly owner: Owner }).owner

/** How many wait inside. */
const watchersOf = (socket: unknown): ReadonlyArray<number> => {
  const { whenMoved, wiring: { orders, outbox } } = ownerOf(socket)
  return [whenMoved.size, orders.whenOrdered.size, outbox.whenGone.size]
}
