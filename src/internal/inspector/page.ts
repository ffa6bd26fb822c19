/**
 * The page of an Inspector: one document, without external resources and without data.
 */
import { script } from "./script.js"
import { style } from "./style.js"

const head = (nonce: string): string =>
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Holdfast Inspector</title>
<link rel="icon" href="data:,">
<style nonce="${nonce}">${style}</style>
</head>`

const body = `
<a class="skip" href="#sessions">Skip to the tables</a>
<header>
  <h1><span class="mark" aria-hidden="true"></span>Holdfast <span>Inspector</span></h1>
  <p id="link" role="status" data-tone="wait">connecting</p>
  <div class="tools">
    <label>Filter by name <input id="filter" type="search" autocomplete="off" spellcheck="false"></label>
    <button id="pause" type="button" aria-pressed="false">Pause</button>
  </div>
</header>
<main>
  <form id="ask" hidden>
    <label>Token <input id="token" type="password" autocomplete="off"></label>
    <button type="submit">Open</button>
    <p>Add <code>#token=…</code> to the address, or enter the token here. The page keeps it in memory only.</p>
  </form>
  <ul id="tiles" aria-label="Summary"></ul>
  <section aria-labelledby="timeline-title" aria-describedby="timeline-text">
    <h2 id="timeline-title">Timeline</h2>
    <p id="timeline-text" class="hint">The last two minutes. The table of events below has the same in words.</p>
    <div id="lanes" aria-hidden="true"></div>
    <ul class="legend" aria-hidden="true">
      <li><i class="key good"></i>refreshed, open, committed</li>
      <li><i class="key wait"></i>dialing, waiting</li>
      <li><i class="key bad"></i>failed, lost</li>
      <li><i class="key warn"></i>rolled back, refused</li>
    </ul>
  </section>
  <div id="tables"></div>
</main>
`

/** The page, whose style and script have this nonce. */
export const page = (nonce: string): string =>
  `${head(nonce)}
<body>${body}<script nonce="${nonce}">${script}</script>
</body>
</html>
`
