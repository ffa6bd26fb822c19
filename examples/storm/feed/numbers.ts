/** The numbers of one client's messages that the server has received. */
export class Numbers {
  private readonly beyond = new Set<number>()
  /** All numbers up to this one have been received. */
  upTo = 0

  /** False if the number was already there. */
  add(number: number): boolean {
    if (number <= this.upTo || this.beyond.has(number)) return false
    this.beyond.add(number)
    while (this.beyond.delete(this.upTo + 1)) this.upTo++
    return true
  }
}
