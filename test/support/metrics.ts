import * as Metric from "effect/Metric"

/** The sum of all series of a metric that have these labels: of values, or of a histogram's counts. */
export const sumOf = (name: string, labels: Readonly<Record<string, string>>): number => {
  let sum = 0
  for (const { metricKey, metricState } of Metric.unsafeSnapshot()) {
    if (metricKey.name !== name) continue
    const tags = Object.fromEntries(metricKey.tags.map(({ key, value }) => [key, value]))
    if (!Object.entries(labels).every(([key, value]) => tags[key] === value)) continue
    const state = metricState as { readonly count?: number; readonly value?: number }
    sum += Number(state.count ?? state.value)
  }
  return sum
}
