/**
 * A set in the order in which its members were added, for queues: its first members are found in constant time. A `Set`
 * keeps a hole for each member that has left, and passes over these holes each time it looks for its first member, so
 * that a long queue from which members are taken one by one needs quadratic time.
 */

interface Node<A> {
  readonly member: A
  before: Node<A> | undefined
  after: Node<A> | undefined
  isGone: boolean
}

export class LinkedSet<A> implements Iterable<A> {
  /** Made when first needed, since many sets stay empty. */
  private nodes: Map<A, Node<A>> | undefined
  private first: Node<A> | undefined
  private last: Node<A> | undefined

  get size(): number {
    return this.nodes?.size ?? 0
  }

  has(member: A): boolean {
    return this.nodes?.has(member) === true
  }

  /** Adds the member behind the others, unless it is a member already. */
  add(member: A): void {
    if (this.has(member)) return
    const node: Node<A> = { member, before: this.last, after: undefined, isGone: false }
    if (this.last === undefined) this.first = node
    else this.last.after = node
    this.last = node
    ;(this.nodes ??= new Map()).set(member, node)
  }

  /** Gives whether it was a member. */
  delete(member: A): boolean {
    const node = this.nodes?.get(member)
    if (node === undefined) return false
    this.nodes?.delete(member)
    const { after, before } = node
    if (before === undefined) this.first = after
    else before.after = after
    if (after === undefined) this.last = before
    else after.before = before
    node.isGone = true
    return true
  }

  clear(): void {
    for (const member of this) this.delete(member)
  }

  /** Members may leave meanwhile, also the current one. A member that joins meanwhile may be met or not. */
  *[Symbol.iterator](): Iterator<A, undefined> {
    for (let node = this.first; node !== undefined; node = node.after) {
      if (!node.isGone) yield node.member
    }
  }
}
