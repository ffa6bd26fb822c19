/** The turns that transactions take, and the search for circles of holders that wait. Both are pure. */
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { circleThrough } from "../src/internal/transaction/circle.js"
import { type Holder, type Place, releaseAll, Turn } from "../src/internal/transaction/turn.js"

class Person implements Holder<Person> {
  readonly name: string
  turn: Turn<Person> | undefined
  places: Map<Turn<Person>, Place<Person>> | undefined

  constructor(name: string) {
    this.name = name
  }

  get turns(): ReadonlyArray<Turn<Person>> {
    const turns: Array<Turn<Person>> = []
    for (let at = this.turn; at !== undefined; at = at.next) turns.push(at)
    return turns
  }
}

const queueOf = (turn: Turn<Person>): string => {
  const [forwards, backwards]: [Array<string>, Array<string>] = [[], []]
  for (let place = turn.first; place !== undefined; place = place.behind) forwards.push(place.holder.name)
  for (let place = turn.last; place !== undefined; place = place.ahead) backwards.unshift(place.holder.name)
  assert.deepStrictEqual(forwards, backwards)
  assert.strictEqual(turn.waiters, forwards.length)
  return forwards.join("")
}

describe("T3: a turn", () => {
  const turnOf = () => {
    const log: Array<string> = []
    const turn = new Turn<Person>("turn")
    const [a, b, c, d] = [new Person("a"), new Person("b"), new Person("c"), new Person("d")] as const
    const enqueue = (person: Person, fiber = "") => turn.enqueue(person, () => log.push(`${person.name}${fiber}`))
    return { enqueue, log, turn, a, b, c, d }
  }

  it("is handed on in the order of the requests, and wakes all fibers of the new holder", () => {
    const { a, b, c, d, enqueue, log, turn } = turnOf()
    turn.release()
    turn.dismiss(a)
    turn.dismissAll()
    assert.strictEqual(queueOf(turn), "")
    assert.deepStrictEqual([turn.tryTake(a), turn.tryTake(a), turn.tryTake(b)], [true, true, false])
    assert.deepStrictEqual(a.turns, [turn])
    for (const [person, fiber] of [[b, " (1)"], [c], [b, " (2)"], [d]] as const) enqueue(person, fiber)
    assert.strictEqual(queueOf(turn), "bcd")
    turn.release()
    assert.strictEqual(turn.holder, b)
    assert.deepStrictEqual([b.turns, [...b.places!.keys()]], [[turn], []])
    turn.dismiss(c)
    assert.strictEqual(queueOf(turn), "d")
    turn.release()
    turn.release()
    assert.isUndefined(turn.holder)
    assert.deepStrictEqual(log, ["b (1)", "b (2)", "c", "d"])
    assert.deepStrictEqual([c.turns, d.turns], [[], [turn]])
  })

  it("that is dismissed wakes all waiting fibers without giving them the turn", () => {
    const { a, b, c, enqueue, log, turn } = turnOf()
    turn.tryTake(a)
    enqueue(b)
    enqueue(c)
    turn.dismissAll()
    turn.release()
    assert.deepStrictEqual([queueOf(turn), turn.holder], ["", undefined])
    assert.deepStrictEqual(log, ["b", "c"])
  })

  it("is not handed to a holder whose requests are all withdrawn, but to one with a request left", () => {
    const { a, b, c, enqueue, log, turn } = turnOf()
    turn.tryTake(a)
    const [first, second, third] = [enqueue(b), enqueue(c, " (1)"), enqueue(c, " (2)")]
    first()
    second()
    first()
    assert.strictEqual(queueOf(turn), "c")
    turn.release()
    assert.deepStrictEqual(log, ["c (2)"])
    third()
    assert.strictEqual(turn.holder, c)
    assert.strictEqual(queueOf(turn), "")
  })

  it("closes the gap when a place in the middle of the queue is removed", () => {
    const { a, b, c, d, enqueue, turn } = turnOf()
    turn.tryTake(a)
    enqueue(b)
    const leave = enqueue(c)
    enqueue(d)
    leave()
    assert.strictEqual(queueOf(turn), "bd")
    turn.dismiss(d)
    enqueue(c)
    assert.strictEqual(queueOf(turn), "bc")
  })

  it("keeps a holder's new request when its previous one is withdrawn late", () => {
    const { a, b, enqueue, log, turn } = turnOf()
    turn.tryTake(a)
    const former = enqueue(b, " (1)")
    turn.dismiss(b)
    enqueue(b, " (2)")
    former()
    assert.strictEqual(queueOf(turn), "b")
    turn.release()
    assert.deepStrictEqual(log, ["b (1)", "b (2)"])
  })
})

describe("T5: a circle of holders that wait", () => {
  /** Takes the turn, or waits for it. If that would close a circle, gives the circle instead. */
  const ask = (turn: Turn<Person>, person: Person): ReadonlyArray<string> | undefined => {
    if (turn.tryTake(person) || person.places?.has(turn) === true) return undefined
    const circle = circleThrough(turn, person)
    if (circle === undefined) turn.enqueue(person, () => {})
    return circle?.map(({ name }) => name)
  }

  const make = (turns: number, people: number) => ({
    turns: Array.from({ length: turns }, (_, index) => new Turn<Person>(`t${index}`)),
    people: Array.from({ length: people }, (_, index) => new Person(`p${index}`))
  })

  it("gives the turns of the circle, each once, however many wait in their queues", () => {
    const { people, turns: [a, b, c] } = make(3, 6)
    ask(a!, people[0]!)
    ask(b!, people[1]!)
    ask(c!, people[2]!)
    for (const person of people.slice(3)) assert.isUndefined(ask(b!, person))
    assert.isUndefined(ask(b!, people[0]!))
    assert.isUndefined(ask(a!, people[2]!))
    assert.deepStrictEqual(ask(c!, people[1]!), ["t2", "t0", "t1"])
    // The same through holders that are only ahead of the asking one in a queue.
    assert.deepStrictEqual(ask(c!, people[3]!), ["t2", "t0", "t1"])
  })

  it("does not include a holder that is further back in a queue", () => {
    const { people: [p, q, r, s], turns: [t, a, b] } = make(3, 4)
    ask(t!, p!)
    ask(a!, q!)
    ask(b!, r!)
    assert.isUndefined(ask(t!, r!))
    assert.isUndefined(ask(t!, s!))
    assert.isUndefined(ask(a!, s!))
    assert.isUndefined(ask(b!, q!))
  })

  /**
   * The definition: a holder that waits for a turn waits for the turn's holder, and for all holders ahead in its queue.
   */
  const isCircle = (asked: Turn<Person>, asker: Person): boolean => {
    const seen = new Set<Person>()
    const isReached = (person: Person): boolean => {
      if (person === asker) return true
      if (seen.has(person)) return false
      seen.add(person)
      return [...person.places?.values() ?? []].some((place) => aheadOf(place.turn, place).some(isReached))
    }
    return aheadOf(asked, undefined).some(isReached)
  }

  const aheadOf = (turn: Turn<Person>, place: Place<Person> | undefined): ReadonlyArray<Person> => {
    const ahead = [turn.holder!]
    for (let at = turn.first; at !== undefined && at !== place; at = at.behind) ahead.push(at.holder)
    return ahead
  }

  it("is found exactly if there is one, whatever the queues", () => {
    const step = fc.record({
      kind: fc.constantFrom("ask", "ask", "ask", "ask", "release", "leave"),
      turn: fc.nat(5),
      person: fc.nat(5)
    })
    let circles = 0
    fc.assert(
      fc.property(fc.array(step, { minLength: 8, maxLength: 40 }), (steps) => {
        const { people, turns } = make(6, 6)
        for (const { kind, person: at, turn: index } of steps) {
          const [person, turn] = [people[at]!, turns[index]!]
          if (kind === "release") {
            if (turn.holder !== undefined) releaseAll(turn.holder)
          } else if (kind === "leave") {
            turn.dismiss(person)
          } else if (turn.holder === undefined || turn.holder === person || person.places?.has(turn) === true) {
            ask(turn, person)
          } else {
            const expected = isCircle(turn, person)
            const circle = ask(turn, person)
            assert.strictEqual(circle !== undefined, expected)
            if (circle !== undefined) {
              circles++
              assert.strictEqual(circle.at(0), turn.name)
              assert.strictEqual(new Set(circle).size, circle.length)
              const own = [...person.turns, ...person.places?.keys() ?? []]
              assert.isTrue(own.some(({ name }) => circle.includes(name)))
            }
          }
        }
      }),
      { numRuns: 5_000 }
    )
    assert.isAbove(circles, 1_000)
  })

  /** Counts how often a search looks into a queue. */
  const lookedInto = (turn: Turn<Person>, person: Person): number => {
    let looks = 0
    const watched = new Set<object>()
    const watch = (at: Person) => {
      if (watched.has(at)) return
      watched.add(at)
      const places = at.places
      Object.defineProperty(at, "places", {
        configurable: true,
        get: () => {
          looks++
          return places
        },
        set: () => {}
      })
    }
    for (let place = turn.first; place !== undefined; place = place.behind) watch(place.holder)
    assert.isUndefined(circleThrough(turn, person))
    return looks
  }

  it("T11: is not searched in a queue of thousands if no other holder waits for the one that asks", () => {
    const { people, turns: [shared, ...own] } = make(2_001, 2_002)
    ask(shared!, people[2_001]!)
    for (let index = 0; index < 2_000; index++) {
      ask(own[index]!, people[index]!)
      assert.isUndefined(ask(shared!, people[index]!))
    }
    const late = new Person("late")
    ask(new Turn("its own"), late)
    assert.isAtMost(lookedInto(shared!, late), 2)
  })

  it("T11: is not searched in a queue of thousands if few holders wait for the one that asks", () => {
    const { people, turns: [shared, ...own] } = make(2_001, 4_002)
    ask(shared!, people[4_001]!)
    for (let index = 0; index < 2_000; index++) {
      ask(own[index]!, people[index]!)
      ask(own[index]!, people[2_000 + index]!)
      assert.isUndefined(ask(shared!, people[index]!))
    }
    const [late, waiting, turn] = [new Person("late"), new Person("waiting"), new Turn<Person>("its own")]
    ask(turn, late)
    ask(turn, waiting)
    assert.isAtMost(lookedInto(shared!, late), 10)
  })
})
