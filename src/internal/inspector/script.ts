/**
 * The script of an Inspector's page. Each text that the page shows is inserted as text, never as markup.
 *
 * The script is a string so that the page needs neither a build nor a second request. A test in a browser runs it.
 */
export const script = String.raw`
"use strict"
const byId = (id) => document.getElementById(id)
const make = (tag, className, text) => {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text !== undefined) element.textContent = text
  return element
}
const setText = (element, text) => { if (element.textContent !== text) element.textContent = text }
const base = location.pathname.replace(/\/$/, "")

// --- what is shown -----------------------------------------------------------

const number = (value) => value.toLocaleString("en")
const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0)
const parts = (counts) =>
  Object.entries(counts).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1])
    .map(([label, count]) => number(count) + "\u00a0" + label).join(", ")
const span = (millis) => {
  const sign = millis < 0 ? "−" : "", abs = Math.abs(millis), s = Math.floor(abs / 1000)
  if (abs < 1000) return sign + Math.round(abs) + " ms"
  if (s < 10) return sign + (abs / 1000).toFixed(1) + " s"
  if (s < 60) return sign + s + " s"
  if (s < 3600) return sign + Math.floor(s / 60) + " min " + s % 60 + " s"
  if (s < 86400) return sign + Math.floor(s / 3600) + " h " + Math.floor(s / 60) % 60 + " min"
  return sign + Math.floor(s / 86400) + " d " + Math.floor(s / 3600) % 24 + " h"
}
const size = (bytes) =>
  bytes < 1024 ? bytes + " B" : bytes < 1048576
    ? (bytes / 1024).toFixed(1) + " KiB" : (bytes / 1048576).toFixed(1) + " MiB"

const tones = {
  Active: "good", Refreshing: "wait", Failing: "bad", Idle: "idle", Closed: "idle",
  Open: "good", Opening: "wait", Dialing: "wait", Waiting: "warn"
}
const isGood = (outcome) => outcome === "success" || outcome === "late"
const failed = (refreshes) => total(refreshes) - (refreshes.success || 0) - (refreshes.late || 0)

// A column: its title, the value that it is sorted by, and optionally how the value is shown. "sum": the last row has
// the sum of the values, which includes gone things.
const since = (time, at) => time === null ? null : at - time
const left = (time, at) => time === null ? null : time - at
const count = (title, value, detail) => ({ title, value, detail, sum: true })
const time = (title, value) => ({ title, value, show: span })
const columns = {
  sessions: [
    { title: "State", text: true, value: (row) => row.state, state: true },
    { title: "Generation", value: (row) => row.generation },
    time("Age", (row, at) => since(row.acquiredAt, at)),
    time("Expires in", (row, at) => left(row.expiresAt, at)),
    time("Tries again in", (row, at) => left(row.retryAt, at)),
    { title: "Waiting", value: (row) => row.waiters, add: true },
    count("Refreshed", (row) => total(row.refreshes) - failed(row.refreshes), (row) =>
      parts({ late: row.refreshes.late || 0 })),
    count("Failed", (row) => failed(row.refreshes), (row) => {
      const { success, late, ...others } = row.refreshes
      return parts(others)
    }),
    { title: "Last refreshes", text: true, value: (row) => row.last[0] ? row.last[0].at : null, runs: true }
  ],
  sockets: [
    { title: "State", text: true, value: (row) => row.state, state: true },
    time("For", (row, at) => since(row.since, at)),
    { title: "Attempt", value: (row) => row.attempt },
    time("Delay", (row) => row.delay),
    time("Dials in", (row, at) => left(row.until, at)),
    { title: "Outbox", value: (row) => row.outbox, add: true },
    { title: "Unacknowledged", value: (row) => row.unacknowledged, add: true },
    time("Oldest", (row, at) => since(row.oldest, at)),
    time("Round trip", (row) => row.roundTrip),
    count("Dials", (row) => total(row.dials), (row) => parts(row.dials)),
    count("Opened", (row) => row.opened),
    count("Lost", (row) => total(row.lost), (row) => parts(row.lost)),
    count("Rejected", (row) => total(row.rejected), (row) => parts(row.rejected)),
    count("Dropped", (row) => total(row.dropped), (row) => parts(row.dropped)),
    { title: "Last event", text: true, value: (row) => lastEvent.get("sockets " + row.id) || null }
  ],
  refs: [
    { title: "Held by", text: true, value: (row) => row.holder === null ? null : "fiber " + row.holder },
    time("Held for", (row, at) => since(row.since, at)),
    { title: "Waiting", value: (row) => row.waiters, add: true },
    count("Commits", (row) => row.commits),
    count("Rollbacks", (row) => row.rollbacks)
  ],
  tickets: [
    { title: "Servers", value: (row) => row.servers, add: true },
    { title: "Tickets", value: (row) => row.tickets, add: true },
    { title: "Size", value: (row) => row.bytes, show: size, add: true },
    count("Offered", (row) => row.offered),
    count("Resumed", (row) => row.resumed),
    count("Refused", (row) => row.refused),
    count("Expired", (row) => row.expired),
    count("Dropped", (row) => row.dropped)
  ],
  events: [
    { title: "Time", value: (row) => row.number, show: (_, row) => clock(row.at) },
    { title: "Of", text: true, value: (row) => things[row.kind] },
    { title: "Event", text: true, value: (row) => words[row.event] || row.event },
    { title: "Detail", text: true, value: (row) => row.detail === undefined ? null : row.detail },
    time("Took", (row) => row.millis === undefined ? null : row.millis)
  ]
}
const things = { sessions: "session", sockets: "socket", refs: "shared state", tickets: "TLS tickets" }
const titles = {
  sessions: "Sessions", sockets: "Sockets", refs: "Shared state", tickets: "TLS tickets", events: "Events"
}
const nothing = {
  sessions: "No session has been made.", sockets: "No socket has been made.",
  refs: "No ref with a name has been made.", tickets: "No cache of tickets has been made.",
  events: "Nothing has happened yet."
}
const words = {
  RolledBack: "rolled back", Refreshed: "refreshed", Opened: "opened", Lost: "lost", Waiting: "waiting",
  Dialing: "dialing", Closed: "closed", Rejected: "callback threw", Ended: "ended", Adopted: "adopted from outside",
  SubscriptionFailed: "subscription left out",
  GaveUp: "gave its credential up", OverBudget: "over its budget", Refused: "ticket refused"
}
const clock = (at) => new Date(at).toLocaleTimeString("en-GB") + "." + String(at % 1000).padStart(3, "0").slice(0, 1)

// --- state -------------------------------------------------------------------

const rowLimit = 200, eventLimit = 2000, windowMillis = 120000
let latest, offset = 0, isPaused = false, events = []
// Events that came while the page was paused, and are not on the timeline yet.
let missed = []
const lastEvent = new Map()
const now = () => Date.now() + offset

// --- tables ------------------------------------------------------------------

const tables = {}
for (const kind of Object.keys(columns)) {
  const section = make("section")
  section.id = kind
  const heading = make("h2", "", titles[kind])
  heading.id = kind + "-title"
  section.setAttribute("aria-labelledby", heading.id)
  const scroll = make("div", "scroll")
  scroll.tabIndex = 0
  scroll.setAttribute("role", "region")
  scroll.setAttribute("aria-label", titles[kind] + ", table")
  const table = make("table"), caption = make("caption", "hidden", titles[kind] + ", sorted by a click on a heading")
  const thead = make("thead"), tbody = make("tbody"), tfoot = make("tfoot"), headRow = make("tr")
  const all = [{ title: "Name", text: true, value: (row) => row.name, name: true }, ...columns[kind]]
  const sort = kind === "events" ? { column: 1, down: true } : { column: 0, down: false }
  const heads = all.map((column, index) => {
    const th = make("th", column.text ? "text" : "")
    th.scope = "col"
    const button = make("button", "", column.title)
    button.type = "button"
    button.addEventListener("click", () => {
      const same = sort.column === index
      sort.down = same ? !sort.down : !column.text
      sort.column = index
      render()
    })
    th.append(button)
    headRow.append(th)
    return th
  })
  thead.append(headRow)
  table.append(caption, thead, tbody, tfoot)
  scroll.append(table)
  const none = make("p", "none"), more = make("p", "none")
  section.append(heading, none, scroll, more)
  byId("tables").append(section)
  tables[kind] = { kind, columns: all, sort, heads, tbody, tfoot, none, more, scroll, rows: new Map() }
}

const compare = (a, b) =>
  a === b ? 0 : a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : a < b ? -1 : 1

const showCell = (cell, column, row, at) => {
  const value = column.value(row, at)
  if (column.name) {
    if (!cell.firstChild) cell.append(make("span", "name"), make("small"))
    setText(cell.firstChild, row.name)
    cell.firstChild.title = row.name
    setText(cell.lastChild, row.things === undefined ? "" : number(row.things) + " gone")
    return
  }
  if (column.runs) return showRuns(cell, row)
  if (column.state) {
    if (!cell.firstChild) cell.append(make("span", "state"))
    cell.firstChild.dataset.tone = tones[value]
    return setText(cell.firstChild, value)
  }
  const isMissing = value === null || value === undefined
  const text = isMissing ? "–" : column.show ? column.show(value, row)
    : typeof value === "number" ? number(value) : value
  const detail = column.detail ? column.detail(row) : ""
  if (!column.detail) return setText(cell, text)
  if (!cell.firstChild) cell.append(make("span"), make("span", "parts"))
  setText(cell.firstChild, text)
  setText(cell.lastChild, detail)
}

const showRuns = (cell, row) => {
  const key = row.last.map((run) => run.at + run.outcome).join()
  if (cell.dataset.key === key) return
  cell.dataset.key = key
  const runs = make("span", "runs"), longest = Math.max(1, ...row.last.map((run) => run.millis))
  const said = row.last.map((run) => run.outcome + (run.reason ? " (" + run.reason + ")" : "") + ", " +
    span(run.millis) + ", " + run.waiters + " waited")
  for (const run of [...row.last].reverse()) {
    const bar = make("i", isGood(run.outcome) ? "" : "bad")
    bar.style.height = 4 + Math.round(14 * run.millis / longest) + "px"
    runs.append(bar)
  }
  runs.title = said.join("\n")
  runs.setAttribute("aria-hidden", "true")
  cell.replaceChildren(runs, make("span", "hidden", said.join("; ")))
}

const showTable = (table, rows, gone, at) => {
  const wanted = byId("filter").value.trim().toLowerCase()
  const isWanted = (row) => row.name.toLowerCase().includes(wanted)
  const { column, down } = table.sort, sorting = table.columns[column]
  const shown = rows.filter(isWanted).sort((a, b) => {
    const x = sorting.value(a, at), y = sorting.value(b, at), isMissing = (v) => v === null || v === undefined
    const order = compare(x, y)
    return (down && !isMissing(x) && !isMissing(y) ? -order : order) || compare(a.id, b.id)
  })
  const left = gone.filter(isWanted)
  table.heads.forEach((th, index) =>
    th.setAttribute("aria-sort", index !== column ? "none" : down ? "descending" : "ascending"))
  const isEmpty = shown.length + left.length === 0
  table.scroll.hidden = isEmpty
  table.none.hidden = !isEmpty
  setText(table.none, wanted && rows.length + gone.length > 0 ? "No name matches the filter." : nothing[table.kind])
  const matching = [...shown, ...left], ordered = matching.slice(0, rowLimit)
  table.more.hidden = matching.length <= rowLimit
  setText(table.more, "Showing " + rowLimit + " of " + number(matching.length) +
    ". The sums are of all; filter by name.")

  const kept = new Set()
  ordered.forEach((row, index) => {
    const key = table.kind === "events" ? "event " + row.number : row.id === undefined ? "gone " + row.name : row.id
    kept.add(key)
    let tr = table.rows.get(key)
    if (!tr) {
      tr = make("tr", row.things === undefined ? "" : "gone")
      for (const column of table.columns) tr.append(make("td", column.text ? "text" : ""))
      table.rows.set(key, tr)
    }
    table.columns.forEach((column, index) => {
      if (row.things !== undefined && !column.sum && !column.name) return setText(tr.cells[index], "")
      showCell(tr.cells[index], column, row, at)
    })
    if (table.tbody.children[index] !== tr) table.tbody.insertBefore(tr, table.tbody.children[index] || null)
  })
  for (const [key, tr] of table.rows) {
    if (kept.has(key)) continue
    tr.remove()
    table.rows.delete(key)
  }
  showSums(table, shown, left, at)
}

const showSums = (table, shown, gone, at) => {
  if (!table.columns.some((column) => column.sum)) return
  if (!table.tfoot.firstChild) {
    const tr = make("tr")
    for (const column of table.columns) tr.append(make("td", column.text ? "text" : ""))
    table.tfoot.append(tr)
  }
  table.columns.forEach((column, index) => {
    const of = column.sum ? [...shown, ...gone] : column.add ? shown : undefined
    const sum = of && of.reduce((sum, row) => sum + column.value(row, at), 0)
    setText(table.tfoot.firstChild.cells[index], index === 0 ? "All" : of === undefined ? ""
      : column.show ? column.show(sum) : number(sum))
  })
}

// --- the summary -------------------------------------------------------------

const tiles = {}
for (const kind of ["sessions", "sockets", "refs", "tickets"]) {
  const tile = make("li"), value = make("b", "", "–"), what = make("span", "", titles[kind])
  const note = make("span", "")
  tile.append(value, what, make("br"), note)
  byId("tiles").append(tile)
  tiles[kind] = { value, note }
}

const showTiles = ({ refs, sessions, sockets, tickets }) => {
  const say = (kind, value, note, isBad) => {
    setText(tiles[kind].value, number(value))
    setText(tiles[kind].note, note)
    tiles[kind].note.className = isBad ? "bad" : ""
  }
  const failing = sessions.filter((row) => row.state === "Failing").length
  say("sessions", sessions.length, failing ? failing + " failing" : "none failing", failing > 0)
  const open = sockets.filter((row) => row.state === "Open").length
  say("sockets", sockets.length, open + " open", open < sockets.length)
  const sum = (rows, key) => rows.reduce((sum, row) => sum + row[key], 0)
  const waiting = sum(refs, "waiters")
  say("refs", refs.length, waiting ? waiting + " waiting" : "nobody waits", false)
  const offered = sum(tickets, "offered")
  say("tickets", sum(tickets, "tickets"), offered
    ? Math.round(100 * sum(tickets, "resumed") / offered) + " % of those offered resumed" : "none offered yet", false)
}

// --- the timeline ------------------------------------------------------------

const laneLimit = 16
const lanes = new Map()
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const key in attributes) element.setAttribute(key, attributes[key])
  return element
}
const axis = make("div", "axis"), ends = make("div")
ends.append(make("span", "", "2 min ago"), make("span", "", "1 min"), make("span", "", "now"))
axis.append(make("span"), ends)
byId("lanes").append(axis)

const laneOf = (kind, id, name) => {
  const key = kind + " " + id
  let lane = lanes.get(key)
  if (!lane) {
    const element = make("div", "lane"), label = make("span"), strip = svg("svg", { class: "strip" })
    const moving = svg("g", {})
    strip.append(svg("line", { x1: 0, x2: "100%", y1: 13, y2: 13 }), moving)
    element.append(label, strip)
    lane = { kind, element, label, strip, moving, marks: [], start: now(), activity: undefined, band: undefined, at: 0 }
    lanes.set(key, lane)
  }
  setText(lane.label, name)
  lane.label.title = things[kind] + " " + name
  return lane
}

const diamond = (x) => "M" + x + " 6l6 7-6 7-6-7z"
const draw = (lane, mark) => {
  const perMillis = lane.strip.clientWidth / windowMillis
  const x = (mark.from - lane.start) * perMillis
  if (mark.shape === "diamond") mark.element.setAttribute("d", diamond(x))
  else {
    mark.element.setAttribute("x", x)
    const until = mark.until === undefined ? now() : mark.until
    mark.element.setAttribute("width", Math.max(mark.least || 0, (until - mark.from) * perMillis))
  }
}
const add = (lane, mark, attributes) => {
  mark.element = svg(mark.shape === "diamond" ? "path" : "rect", attributes)
  if (mark.shape === "band") lane.moving.prepend(mark.element)
  else lane.moving.append(mark.element)
  lane.marks.push(mark)
  lane.at = Math.max(lane.at, mark.until || mark.from)
  draw(lane, mark)
  return mark
}
const point = (lane, at, tone) => add(lane, { shape: "diamond", from: at, until: at }, { class: tone })
const bar = (lane, from, until, tone, height) =>
  add(lane, { shape: "bar", from, until, least: 3 }, { class: tone, y: 13 - height / 2, height, rx: 2 })

const bands = { Open: "good", Opening: "wait", Dialing: "wait", Waiting: "warn" }
const become = (lane, state, at) => {
  if (lane.band && lane.band.state === state) return
  if (lane.band) {
    lane.band.until = at
    draw(lane, lane.band)
  }
  lane.band = bands[state]
    && add(lane, { shape: "band", state, from: at }, { class: "band " + bands[state], y: 4, height: 18, rx: 4 })
}
const stateAfter = { Opened: "Open", Lost: "Dialing", Dialing: "Dialing", Waiting: "Waiting", Closed: "Closed" }

const warned = new Set(["RolledBack", "Refused", "Rejected", "SubscriptionFailed"])
const mark = (event) => {
  const lane = laneOf(event.kind, event.id, event.name), { at } = event
  if (event.kind === "sockets" && stateAfter[event.event]) become(lane, stateAfter[event.event], at)
  if (event.event === "Refreshed") {
    const good = isGood(event.detail)
    bar(lane, at - event.millis, at, good ? "good" : "bad", good ? 10 : 4)
    if (!good) point(lane, at, "bad")
  } else if (event.event === "Lost" || event.event === "GaveUp" || event.event === "OverBudget") point(lane, at, "bad")
  else if (warned.has(event.event)) point(lane, at, "warn")
}

// Counters of things that happen too often to be events.
const activity = { refs: (row) => row.commits, tickets: (row) => row.resumed }
const showActivity = (snapshot) => {
  for (const kind in activity) {
    for (const row of snapshot[kind]) {
      const lane = laneOf(kind, row.id, row.name), count = activity[kind](row), before = lane.activity
      lane.activity = { count, at: snapshot.at }
      if (before && count > before.count) {
        bar(lane, before.at, snapshot.at, "good", Math.min(16, 3 + 3 * Math.log2(1 + count - before.count)))
      }
    }
  }
}

const showLanes = (snapshot) => {
  for (const row of snapshot.sessions) laneOf("sessions", row.id, row.name)
  for (const row of snapshot.sockets) {
    const lane = laneOf("sockets", row.id, row.name)
    if (!lane.band) become(lane, row.state, row.since)
  }
  const living = new Set(["sessions", "sockets", "refs", "tickets"].flatMap((kind) =>
    snapshot[kind].map((row) => kind + " " + row.id)))
  const first = now() - windowMillis, wanted = byId("filter").value.trim().toLowerCase()
  for (const [key, lane] of lanes) {
    lane.marks = lane.marks.filter((mark) => {
      if (mark.until === undefined || mark.until > first) return true
      mark.element.remove()
      return false
    })
    if (!living.has(key)) {
      if (lane.band) become(lane, "Closed", now())
      if (lane.at < first) {
        lane.element.remove()
        lanes.delete(key)
      }
    }
  }
  const order = Object.keys(things)
  const all = [...lanes.values()].filter((lane) => lane.label.textContent.toLowerCase().includes(wanted))
  const chosen = new Set([...all].sort((a, b) => b.at - a.at).slice(0, laneLimit))
  const shown = all.filter((lane) => chosen.has(lane)).sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))
  for (const lane of lanes.values()) if (!chosen.has(lane)) lane.element.remove()
  shown.forEach((lane, index) => {
    const there = byId("lanes").children[index]
    if (there === lane.element) return
    byId("lanes").insertBefore(lane.element, there)
    for (const mark of lane.marks) draw(lane, mark)
  })
}

const move = () => {
  for (const lane of lanes.values()) {
    const width = lane.strip.clientWidth
    if (!lane.element.isConnected) continue
    if (lane.width !== width) {
      lane.width = width
      for (const mark of lane.marks) draw(lane, mark)
    }
    if (lane.band) draw(lane, lane.band)
    lane.moving.setAttribute("transform", "translate(" + (width - (now() - lane.start) * width / windowMillis) + ")")
  }
}
const still = matchMedia("(prefers-reduced-motion: reduce)")
// A lane moves by about ten pixels a second, so more frames would not be visible.
const frameMillis = 80
let movedAt = 0
const animate = (at) => {
  if (at - movedAt >= frameMillis && !isPaused && !still.matches) {
    movedAt = at
    move()
  }
  requestAnimationFrame(animate)
}
requestAnimationFrame(animate)

// --- data --------------------------------------------------------------------

const render = () => {
  if (!latest) return
  const { at } = latest
  showTiles(latest)
  for (const kind of ["sessions", "sockets", "refs", "tickets"]) {
    showTable(tables[kind], latest[kind], latest.gone[kind], at)
  }
  showTable(tables.events, latest.kept, [], at)
  showLanes(latest)
  if (still.matches) move()
}

// After a lost connection the process may be a new one, whose numbers begin again.
const startAgain = () => {
  events = []
  missed = []
  lastEvent.clear()
  for (const lane of lanes.values()) lane.element.remove()
  lanes.clear()
}

const take = (snapshot, isFirst) => {
  const known = events.length ? events[events.length - 1] : undefined
  const same = known && snapshot.events.find((event) => event.number === known.number)
  if (isFirst && known && (!same || same.at !== known.at)) startAgain()
  offset = snapshot.at - Date.now()
  const fresh = snapshot.events.filter((event) => !events.length || event.number > events[events.length - 1].number)
  events = [...events, ...fresh].slice(-eventLimit)
  for (const event of fresh) {
    lastEvent.set(event.kind + " " + event.id,
      (words[event.event] || event.event) + (event.detail === undefined ? "" : ", " + event.detail))
  }
  missed = [...missed, ...fresh].slice(-eventLimit)
  const ids = new Set(snapshot.sockets.map((row) => "sockets " + row.id))
  for (const key of lastEvent.keys()) if (!ids.has(key)) lastEvent.delete(key)
  if (isPaused) return
  missed.forEach(mark)
  missed = []
  showActivity(snapshot)
  latest = { ...snapshot, kept: events.slice(-rowLimit) }
  render()
}

const say = (tone, text) => {
  byId("link").dataset.tone = tone
  setText(byId("link"), text)
}
// Everything after "token=" is the token, which may have "+" and "&". The browser encodes what no URL may have.
const fromFragment = () => {
  const [, text = ""] = /^#token=(.*)$/.exec(location.hash) || []
  try {
    return decodeURIComponent(text)
  } catch (_) {
    return text
  }
}
let token = fromFragment(), following

const follow = async () => {
  if (following) following.abort()
  const mine = following = new AbortController()
  for (let delay = 500; !mine.signal.aborted; delay = Math.min(8000, delay * 2)) {
    try {
      if (token && !/^[\x21-\x7e]+$/.test(token)) {
        byId("ask").hidden = false
        return say("bad", "the token is wrong")
      }
      const headers = token ? { authorization: "Bearer " + token } : {}
      const response = await fetch(base + "/events", { headers, cache: "no-store", signal: mine.signal })
      byId("ask").hidden = response.status !== 401
      if (response.status === 401) return say("bad", token ? "the token is wrong" : "a token is needed")
      if (!response.ok) throw new Error(String(response.status))
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
      for (let text = "", isFirst = true;;) {
        const { done, value } = await reader.read()
        if (done) break
        text += value
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          if (!text.startsWith("data: ")) continue
          take(JSON.parse(text.slice(6, end)), isFirst)
          isFirst = false
          say(isPaused ? "wait" : "good", isPaused ? "paused" : "live")
          delay = 500
        }
      }
    } catch (_) {}
    if (mine.signal.aborted) return
    say("bad", "not connected, trying again")
    await new Promise((resolve) => setTimeout(resolve, delay))
  }
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused
  byId("pause").setAttribute("aria-pressed", String(isPaused))
  say(isPaused ? "wait" : "good", isPaused ? "paused" : "live")
})
byId("filter").addEventListener("input", render)
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault()
  token = byId("token").value.trim()
  byId("token").value = ""
  void follow()
})
addEventListener("hashchange", () => {
  token = fromFragment()
  void follow()
})
// A hidden page does not fetch data.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return void follow()
  if (following) following.abort()
})
if (!document.hidden) void follow()
`
