/** A client's record of one session, whose events are numbered from 1. */
export class Hearing {
  private readonly heard = new Set<number>()
  private highest = 0
  twice = 0
  outOfOrder = 0

  hear(number: number): void {
    if (this.heard.has(number)) this.twice++
    else if (number < this.highest) this.outOfOrder++
    this.heard.add(number)
    this.highest = Math.max(this.highest, number)
  }

  get verdict(): Heard {
    const { heard, highest, outOfOrder, twice } = this
    return { heard: heard.size, highest, outOfOrder, twice }
  }
}

export interface Heard {
  /** How many different events were received. */
  readonly heard: number
  readonly highest: number
  readonly outOfOrder: number
  readonly twice: number
}
