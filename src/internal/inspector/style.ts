/** The style of an Inspector's page, for light and dark mode and for narrow screens. */
export const style = `
:root {
  --paper: #faf9f6; --card: #ffffff; --ink: #22282d; --soft: #667079; --line: #e7e4dd; --shade: #f3f1ec;
  --good: #12796f; --wait: #3a6ea5; --bad: #b3372b; --warn: #a5640b; --idle: #8a929a;
  --good-soft: #d5ebe7; --wait-soft: #dbe6f1; --bad-soft: #f6dedb; --warn-soft: #f4e5cd;
  --focus: #2f6fd0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #13171a; --card: #1a1f23; --ink: #e7e5e0; --soft: #9ba5ad; --line: #2a3137; --shade: #20262b;
    --good: #5fc5b5; --wait: #86b4e2; --bad: #f0897d; --warn: #e2ab5c; --idle: #7d8790;
    --good-soft: #1d3d3a; --wait-soft: #22374c; --bad-soft: #4a2623; --warn-soft: #45361d;
    --focus: #8ab8ff;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums;
}
header, main { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 20px; padding-top: 26px; padding-bottom: 18px; }
h1 { font-size: 19px; font-weight: 650; letter-spacing: -.01em; margin: 0;
  display: flex; align-items: center; gap: 7px; }
h1 > span:last-child { font-weight: 400; color: var(--soft); }
.mark { width: 14px; height: 14px; border: 3px solid var(--good); border-radius: 50% 50% 50% 3px; }
h2 { font-size: 15px; font-weight: 620; margin: 0; }
.hint { color: var(--soft); font-size: 13px; margin: 2px 0 12px; }
#link { margin: 0; font-size: 13px; color: var(--soft); }
#link::before, .state::before {
  content: ""; display: inline-block; width: 8px; height: 8px; margin-right: 7px; border-radius: 50%;
  background: var(--idle); vertical-align: 1px;
}
[data-tone=good]::before { background: var(--good) !important; }
[data-tone=wait]::before { background: transparent !important; box-shadow: inset 0 0 0 2px var(--wait); }
[data-tone=warn]::before { background: var(--warn) !important; border-radius: 2px !important; }
[data-tone=bad]::before { background: var(--bad) !important; border-radius: 1px !important; transform: rotate(45deg); }
.tools { margin-left: auto; display: flex; flex-wrap: wrap; gap: 10px; align-items: center; }
label { color: var(--soft); font-size: 13px; }
input, button { font: inherit; color: inherit; }
input {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 5px 10px; margin-left: 6px;
  width: 170px; max-width: 100%;
}
button { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 5px 14px;
  cursor: pointer; }
button:hover { background: var(--shade); }
button[aria-pressed=true] { background: var(--ink); color: var(--paper); border-color: var(--ink); }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 12px; top: 8px; background: var(--card); padding: 6px 12px; border-radius: 8px; z-index: 3; }
#ask { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin: 0 0 18px; }
#ask p { margin: 10px 0 0; color: var(--soft); font-size: 13px; }
#tiles { list-style: none; margin: 0 0 18px; padding: 0; display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); }
#tiles li, section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
#tiles li { padding: 14px 18px; }
#tiles b { display: block; font-size: 26px; font-weight: 600; letter-spacing: -.02em; line-height: 1.25; }
#tiles span { color: var(--soft); font-size: 13px; }
#tiles span.bad { color: var(--bad); }
section { padding: 18px 20px 16px; margin-bottom: 18px; }
.lane { display: grid; grid-template-columns: 150px 1fr; align-items: center; gap: 12px; height: 26px; }
.lane span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: 13px; color: var(--soft);
  unicode-bidi: isolate; }
.strip { display: block; width: 100%; height: 26px; overflow: hidden; }
.strip line { stroke: var(--line); }
.good { fill: var(--good); } .bad { fill: var(--bad); } .warn { fill: var(--warn); } .wait { fill: var(--wait); }
.band.good { fill: var(--good-soft); } .band.wait { fill: var(--wait-soft); } .band.warn { fill: var(--warn-soft); }
.axis { display: grid; grid-template-columns: 150px 1fr; gap: 12px; font-size: 12px; color: var(--soft); }
.axis div { display: flex; justify-content: space-between; border-top: 1px solid var(--line); padding-top: 3px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 10px 0 0;
  color: var(--soft); font-size: 12.5px; }
.key { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 3px; vertical-align: -1px; }
.key.good { background: var(--good); } .key.wait { background: var(--wait-soft); border: 1px solid var(--wait); }
.key.bad { background: var(--bad); transform: rotate(45deg) scale(.8); border-radius: 1px; }
.key.warn { background: var(--warn); transform: rotate(45deg) scale(.8); border-radius: 1px; }
.scroll { position: relative; overflow-x: auto; margin: 10px -20px 0; }
#events .scroll { max-height: 430px; overflow: auto; }
#events thead th { position: sticky; top: 0; background: var(--card); z-index: 2; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { padding: 7px 12px 7px 0; text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--card);
  padding-left: 20px; z-index: 1; }
th:last-child, td:last-child { padding-right: 20px; }
thead th:first-child { padding-left: 18px; }
th.text, td.text { text-align: left; }
thead th { font-weight: 500; color: var(--soft); border-bottom: 1px solid var(--line); padding-bottom: 5px; }
thead button { border: 0; background: none; padding: 1px 2px; border-radius: 4px; color: inherit; font-size: 12.5px; }
th.text button::after, th:not(.text) button::before {
  content: var(--arrow, ""); display: inline-block; width: .8em; text-align: center; }
th[aria-sort=ascending] { --arrow: "↑"; } th[aria-sort=descending] { --arrow: "↓"; }
th[aria-sort=ascending], th[aria-sort=descending] { color: var(--ink); }
tbody tr + tr td { border-top: 1px solid var(--line); }
#events td { padding-top: 4px; padding-bottom: 4px; border: 0; }
tbody tr:hover td { background: var(--shade); }
tfoot td { border-top: 1px solid var(--line); color: var(--soft); font-weight: 560; }
tr.gone td { color: var(--soft); }
.name { display: inline-block; max-width: 260px; overflow: hidden; text-overflow: ellipsis; vertical-align: bottom;
  unicode-bidi: isolate; font-weight: 540; }
.name + small { color: var(--soft); margin-left: 6px; }
.parts { display: block; width: max-content; max-width: 17em; margin-left: auto; color: var(--soft); font-size: 12px;
  white-space: normal; }
.runs { display: inline-flex; gap: 3px; align-items: flex-end; height: 18px; }
.runs i { width: 7px; min-height: 4px; border-radius: 2px; background: var(--good); }
.runs i.bad { background: var(--bad); border-radius: 0; }
.none { color: var(--soft); padding: 10px 0 2px; font-size: 13.5px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
[hidden] { display: none !important; }
@media (max-width: 640px) {
  header, main { padding-left: 14px; padding-right: 14px; }
  .tools { margin-left: 0; width: 100%; }
  .tools label { flex: 1; } .tools input { width: 100%; margin: 2px 0 0; } .tools button { align-self: flex-end; }
  #tiles { grid-template-columns: 1fr 1fr; }
  #tiles li { padding: 10px 14px; } #tiles b { font-size: 21px; }
  section { padding: 14px 14px 12px; }
  .lane, .axis { grid-template-columns: 84px 1fr; gap: 8px; }
  .scroll { margin: 8px -14px 0; }
  th:first-child, td:first-child { padding-left: 14px; }
  thead th:first-child { padding-left: 12px; }
  th:last-child, td:last-child { padding-right: 14px; }
  .name { max-width: 120px; }
}
`
