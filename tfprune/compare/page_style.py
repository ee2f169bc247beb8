"""The page's style sheet: light and dark, screen and paper, from a phone's width up."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --panel: #f5f5f1; --ink: #1b1e22; --soft: #5b636c; --rule: #d9d9d2; --hair: #eaeae4;
  --link: #0a5794; --good: #17693c; --bad: #a53a1c; --grey: #8a8f95;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #c98a00; --s5: #3a9bd4; --s6: #7f3fbf;
  --s7: #8c564b;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --panel: #1c2024; --ink: #e3e5e7; --soft: #a0a8b0; --rule: #3a4047; --hair: #272c31;
    --link: #7cbcf0; --good: #6fcf97; --bad: #f0937a; --grey: #8d949c;
    --s0: #4aa8e0; --s1: #f08a3c; --s2: #2fc79a; --s3: #e39cc4; --s4: #e9b949; --s5: #8fd0f5; --s6: #b68ae6;
    --s7: #c99488;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial,
    sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
main { max-width: 1160px; margin: 0 auto; padding: 40px 32px 72px; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; margin: 0 0 6px; }
h2 {
  font-size: 1.4rem; line-height: 1.25; letter-spacing: -0.01em; font-weight: 650; margin: 60px 0 10px;
  padding-top: 18px; border-top: 2px solid var(--ink);
}
h3 { font-size: 1.08rem; line-height: 1.3; font-weight: 650; margin: 36px 0 4px; }
h4 { font-size: 0.95rem; font-weight: 650; margin: 22px 0 4px; }
p, .notes { max-width: 46rem; margin: 0 0 12px; }
.notes { padding-left: 1.2em; }
.notes li { margin: 3px 0; }
.soft, .note { color: var(--soft); }
.note { font-size: 0.875rem; line-height: 1.5; }
a { color: var(--link); text-underline-offset: 2px; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.none { color: var(--soft); }
.statement { border-left: 3px solid var(--ink); padding: 1px 0 1px 16px; margin: 22px 0 16px;
  max-width: 48rem; }
.statement p:last-child { margin-bottom: 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 0.92rem; margin: 18px 0 0; }

.facts { display: flex; flex-wrap: wrap; gap: 2px 22px; margin: 0 0 14px; padding: 0; list-style: none;
  color: var(--soft); font-size: 0.92rem; }

.table { overflow-x: auto; margin: 8px 0 14px; }
.table:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.9rem; line-height: 1.35; }
.caption { color: var(--soft); font-size: 0.875rem; margin: 16px 0 4px; max-width: none; }
h3 + .caption { margin-top: 4px; }
.whole { white-space: nowrap; }
th.name { white-space: normal; min-width: 9rem; max-width: 22rem; }
th, td { padding: 5px 11px; text-align: right; white-space: nowrap; font-weight: 400;
  vertical-align: baseline; }
th.text, td.text { text-align: left; }
td.wide, th.wide { white-space: normal; min-width: 15rem; }
thead th { color: var(--soft); font-size: 0.82rem; vertical-align: bottom; line-height: 1.25; }
thead th.group { text-align: center; padding-bottom: 1px; }
thead tr:last-child th, thead th[rowspan] { border-bottom: 1px solid var(--ink); }
tbody th, tbody td { border-bottom: 1px solid var(--hair); }
tbody tr:last-child th, tbody tr:last-child td { border-bottom: 1px solid var(--rule); }
.first { border-left: 1px solid var(--hair); }
tr > :first-child { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: left;
  padding-left: 0; }
thead tr:nth-child(2) > :first-child { position: static; padding-left: 11px; }
thead tr:nth-child(2) > :first-child:not(.text) { text-align: right; }
tbody tr:hover > * { background: var(--panel); }
tr.part > * { border-top: 1px solid var(--grey); }
tr.pending td, tr.pending th { color: var(--soft); }
tr.head th { font-weight: 650; padding-top: 14px; }
.spread { color: var(--soft); font-size: 0.92em; }
strong { font-weight: 650; }
.good { color: var(--good); }
.bad { color: var(--bad); }

.findings { margin: 12px 0 20px; padding: 0; list-style: none; max-width: 50rem; }
.findings li { margin: 7px 0; padding-left: 1.5em; text-indent: -1.5em; }
.sign { display: inline-block; width: 1.5em; text-indent: 0; font-weight: 700; }

.status { background: var(--panel); border-radius: 8px; padding: 16px 20px 14px; margin: 22px 0; }
.status h2 { border: 0; padding: 0; margin: 0 0 8px; font-size: 1.05rem; }
.progress { display: flex; gap: 2px; height: 8px; margin: 0 0 12px; border-radius: 4px; overflow: hidden; }
.progress i { flex: 1; background: var(--rule); }
.progress .finished { background: var(--good); }
.progress .running { background: var(--s4); }
.progress .failed { background: var(--bad); }
.states { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr));
  gap: 2px 28px;  list-style: none; margin: 0; padding: 0; font-size: 0.9rem; }
.states li { display: flex; flex-wrap: wrap; gap: 0 8px; align-items: baseline; align-content: start;
  padding: 2px 0;
  border-bottom: 1px solid var(--hair); }
.states .state { font-size: 0.82rem; color: var(--soft); }
.states .text { flex-basis: 100%; color: var(--soft); font-size: 0.84rem; padding-left: 17px; }
.states + .note { margin: 10px 0 0; }
.states li::before { content: ""; width: 9px; height: 9px; border-radius: 50%; background: var(--rule); }
.states .finished::before { background: var(--good); }
.states .running::before { background: var(--s4); }
.states .failed::before { background: var(--bad); }
.states .failed .state { color: var(--bad); font-weight: 650; }
.states .running .state { color: var(--ink); font-weight: 650; }

.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(430px, 100%), 1fr));
  gap: 24px 36px;  margin: 16px 0 6px; }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(min(290px, 100%), 1fr)); gap: 20px 28px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.875rem; color: var(--soft); margin-bottom: 6px; line-height: 1.35; }
.small figcaption b { display: block; }
figcaption b { color: var(--ink); font-weight: 650; margin-right: 6px; }
figure > svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; }
svg .section { font-size: 10px; paint-order: stroke; stroke: var(--paper); stroke-width: 3px;
  stroke-linejoin: round; }
.small svg text { font-size: 10px; }
.grid { stroke: var(--hair); stroke-width: 1; }
.axis { stroke: var(--grey); stroke-width: 1; }
.boundary { stroke: var(--rule); stroke-width: 1; stroke-dasharray: 2 2; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.thin { stroke-width: 1.2; }
.dotted { stroke-dasharray: 3 2.5; }
.dense { stroke-width: 1.6; stroke-dasharray: 6 4; }
.error { stroke-width: 1.3; }
.mark { stroke: var(--paper); stroke-width: 0.8; }
.bar { fill: var(--s0); }
.bar.back { fill: var(--rule); }
.ink { stroke: var(--ink); }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.s4 { --c: var(--s4); } .s5 { --c: var(--s5); } .s6 { --c: var(--s6); } .s7 { --c: var(--s7); }
.paper { --c: var(--grey); }
.line, .dense, .error:not(.ink) { stroke: var(--c); }
.line.paper { stroke-width: 1.2; }
.dense.paper { stroke-width: 1; }
.mark { fill: var(--c); }
.mark.hollow, .mark.again { fill: var(--paper); stroke: var(--c); stroke-width: 1.4; }
.line.again { stroke-dasharray: 2 3; }
.legend { list-style: none; margin: 8px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 20px;
  font-size: 0.84rem; color: var(--soft); }
.legend li { display: flex; gap: 7px; align-items: center; }
.legend svg { flex: none; width: 24px; height: 16px; }
.legend code { color: var(--ink); }
.sizes svg { display: block; width: 180px; height: 12px; }

details { margin: 6px 0; }
summary { cursor: pointer; font-size: 0.92rem; }
details > :not(summary) { margin-top: 8px; }
pre { margin: 0; padding: 12px 14px; background: var(--panel); border-radius: 6px; overflow-x: auto;
  font: 0.8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
footer { margin-top: 64px; padding-top: 14px; border-top: 1px solid var(--rule); }

@media (max-width: 640px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 1.6rem; }
  h2 { font-size: 1.25rem; margin-top: 44px; }
  th, td { padding: 5px 8px; }
  td.wide, th.wide { min-width: 10.5rem; }
  .figures { gap: 22px; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  nav, .progress { display: none; }
  h2, h3, h4 { break-after: avoid; }
  figure, tr, .statement { break-inside: avoid; }
  .table { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: 3px 6px; }
  pre { white-space: pre-wrap; }
}
""".strip()
