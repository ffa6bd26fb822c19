/** The results of the accounts, judged by their balances, the journal, and the callers' answers. */
import type { Section } from "../ledger.js"
import { areOnlySlow } from "../session/client.js"
import type { ResourceApi } from "../session/resource-api.js"
import type { Tally } from "./crowd.js"
import { accountCount, initialCents, type Transfer } from "./transfer.js"

export const section = (tally: Tally, accounts: Awaited<ReturnType<ResourceApi["accounts"]>>): Section => {
  const { improper, incidents, known, sums, unanswered, waiting } = tally
  const { balances, committed, defects, locks, undone } = accounts

  const expectedSum = accountCount * initialCents
  const sum = balances.reduce((sum, cents) => sum + cents, 0)
  const replayed = replay(committed)
  const differing = balances.filter((cents, account) => cents !== replayed[account]).length

  const inJournal = new Set(committed.map(({ id }) => id))
  const missing = known.Done.filter((id) => !inJournal.has(id)).length
  const wronglyDone = [...known.Died, ...known.Failed, ...known.Left, ...known.Overdrawn]
    .filter((id) => inJournal.has(id)).length
  const interrupted = new Set(undone.interrupted)
  const leftMidway = known.Left.filter((id) => interrupted.has(id)).length
  const died = undone.died.length
  const answered = Object.values(known).flat().length
  const unansweredCount = Object.values(unanswered).reduce((total, count) => total + count, 0)
  const reasons = Object.entries(unanswered).map(([why, count]) => ` (${why} ${count})`).join("")

  const logged = new Set(defects.logged)
  const unlogged = incidents.filter((incident) => !logged.has(incident)).length

  return {
    part: "balances",
    entries: [
      {
        promise: "the sum of all balances stays the same",
        held: sum === expectedSum,
        happened: `${money(expectedSum)} before, ${money(sum)} after, in ${accountCount} accounts`
      },
      {
        promise: "no reader sees another sum",
        held: sums.read > 0 && sums.wrong.length === 0 && sums.withDebts === 0,
        onlyTimeWasMissing: sums.wrong.length === 0 && sums.withDebts === 0,
        happened: `${sums.read} read, ${sums.wrong.length} wrong` +
          `${sums.wrong.length === 0 ? "" : ` (such as ${money(sums.wrong[0]!)})`}, ${sums.withDebts} with a debt`
      },
      {
        promise: "each answered transfer is done once",
        held: missing === 0 && differing === 0,
        happened: `${known.Done.length} answered, ${missing} of them not in the journal of ${committed.length}; ` +
          `${differing} balances differ from it`
      },
      {
        promise: "a failed transfer changes nothing",
        held: wronglyDone === 0 && differing === 0,
        happened: `${known.Died.length} died, ${known.Failed.length} failed, ${known.Left.length} aborted ` +
          `(${leftMidway} midway), ${known.Overdrawn.length} would overdraw; ${wronglyDone} in the journal`
      },
      {
        promise: "every transfer is answered",
        held: answered > 0 && unansweredCount === 0 && waiting === 0,
        onlyTimeWasMissing: areOnlySlow(unanswered),
        happened: `${answered} answered or left, ${unansweredCount} given up${reasons}, ${waiting} unanswered; ` +
          `${undone.interrupted.length} were interrupted midway, by the network too`
      },
      {
        promise: "a defect gets a 500 with an incident",
        held: defects.answered === died && improper === 0,
        happened: `${died} defects, ${defects.answered} answered so; callers got ` +
          `${incidents.length} incidents, and other details in ${improper} answers`
      },
      {
        promise: "each defect is logged once",
        held: defects.logged.length === died && logged.size === died && unlogged === 0,
        happened: `${defects.logged.length} logged, ${logged.size} incidents; ` +
          `${unlogged} of the callers' incidents are not among them`
      },
      {
        promise: "no account is left locked",
        held: locks.held === 0 && locks.waiting === 0,
        // A transfer may still be in progress.
        onlyTimeWasMissing: true,
        happened: `${locks.held} held, ${locks.waiting} transfers waiting`
      }
    ],
    counts: {
      answered: lengths(known),
      committed: committed.length,
      undone: lengths(undone),
      unanswered,
      sums
    }
  }
}

const replay = (transfers: ReadonlyArray<Pick<Transfer, "cents" | "from" | "to">>): ReadonlyArray<number> => {
  const balances = Array.from({ length: accountCount }, () => initialCents)
  for (const { cents, from, to } of transfers) {
    balances[from]! -= cents
    balances[to]! += cents
  }
  return balances
}

const lengths = (lists: Readonly<Record<string, ReadonlyArray<unknown>>>): Readonly<Record<string, number>> =>
  Object.fromEntries(Object.entries(lists).map(([name, { length }]) => [name, length]))

const money = (cents: number): string => (cents / 100).toFixed(2)
