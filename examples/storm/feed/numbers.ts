/** The numbers of one client's messages that the server has. */
export class Numbers {
  private readonly beyond = new Set<number>()
  /** Each number up to this one has come. */
  upTo = 0

  /** False if the number has come already. */
  add(number: number): boolean {
    if (number <= this.upTo || this.beyond.has(number)) return false
    this.beyond.add(number)
    while (this.beyond.delete(this.upTo + 1)) this.upTo++
    return true
  }
}
