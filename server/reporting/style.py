"""The style of all pages.

A module and no file of its own kind, because Flower packs no such file into the bundle that a server runs.
"""

CSS = r""":root {
  --page: #f7f7f5; --card: #ffffff; --ink: #1b1f24; --soft: #5b636e; --rule: #e2e4e7; --track: #eef0f2;
  --accent: #0f6b6b; --accent-soft: #e3f0ef; --quiet: #a3abb5; --warn: #8a4b08; --warn-soft: #fdf1e0; --warn-rule: #e9c48f;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e7e9ec; --soft: #9da6b0; --rule: #30363c; --track: #262b30;
    --accent: #55c2bd; --accent-soft: #17312f; --quiet: #6b747e; --warn: #f0b866; --warn-soft: #33270f; --warn-rule: #6b5222;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
.page, .stamp p { margin: 0 auto; max-width: 1128px; padding: 0 24px; }
.page { padding-bottom: 48px; }
h1, h2, h3, p, dl, ul, figure { margin: 0; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; }
h2 { font-size: 19px; line-height: 1.3; font-weight: 650; margin-bottom: 16px; display: flex; flex-wrap: wrap; align-items: center; gap: 4px 12px; }
h3 { font-size: 14px; font-weight: 650; margin-bottom: 8px; }
a { color: var(--accent); text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
abbr { text-decoration: none; }
code { font: 0.92em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }

.stamp {
  padding: 9px 0; background: var(--warn-soft); color: var(--warn); font-size: 13.5px;
  border-bottom: 1px solid var(--warn-rule);
}
.stamp strong { letter-spacing: 0.02em; margin-right: 8px; }
.stamp.accounted { background: var(--accent-soft); color: var(--accent); border-bottom-color: var(--accent); }
header { padding: 32px 0 20px; }
.eyebrow { color: var(--accent); font-size: 13px; font-weight: 600; margin-bottom: 4px; }
.meta { color: var(--soft); margin-top: 6px; }
.status.done { color: var(--accent); font-weight: 600; }
.status.open { color: var(--warn); font-weight: 600; }
.lead { margin-top: 20px; max-width: 86ch; font-size: 17px; }
.claim { margin-top: 8px; max-width: 100ch; color: var(--soft); font-size: 14px; }
.whole { white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); margin-top: 24px; border: 1px solid var(--rule); border-radius: 10px; background: var(--card); }
.tile { padding: 16px 20px; border-left: 1px solid var(--rule); }
.tile:first-child { border-left: 0; }
.tile-name { font-size: 13px; color: var(--soft); }
.tile-value { font-size: 30px; line-height: 1.25; font-weight: 600; letter-spacing: -0.02em; white-space: nowrap; }
.tile:first-child .tile-value { color: var(--accent); }
.tile.warn .tile-value { color: var(--warn); }
.tile-note { font-size: 13px; line-height: 1.4; color: var(--soft); margin-top: 2px; }
.tiles.six { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.six .tile:nth-child(n + 4) { border-top: 1px solid var(--rule); }
.six .tile:nth-child(4) { border-left: 0; }
.tile-words { font-size: 15px; line-height: 1.4; font-weight: 600; margin-top: 4px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 10px 0 14px; font-size: 14px; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--accent); text-decoration: underline; }

section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 22px 24px 24px; margin-bottom: 18px; }
.tag { font-size: 11.5px; font-weight: 500; line-height: 1.5; color: var(--warn); background: var(--warn-soft); border: 1px solid var(--warn-rule); border-radius: 4px; padding: 0 7px; white-space: nowrap; }
.notice { background: var(--warn-soft); border: 1px solid var(--warn-rule); border-radius: 8px; padding: 12px 16px; margin: 12px 0; max-width: 86ch; }
.notice strong { color: var(--warn); }
.empty { color: var(--soft); font-style: italic; }
.small, .legend { font-size: 13px; color: var(--soft); }
.small { margin-top: 12px; }
.legend { margin-top: 10px; }
.prose p + p { margin-top: 10px; }
.charts { display: grid; gap: 24px 36px; }
.charts.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.charts.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure + figure { margin-top: 24px; }
.charts figure { margin-top: 0; }
.empty + .charts { margin-top: 20px; }
.legend + .scroll { margin-top: 16px; }
.scroll + .charts, .charts + .scroll { margin-top: 20px; }
section > p + .scroll, section > p + .charts, .legend + p { margin-top: 14px; }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 6px; }

svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11.5px; fill: var(--ink); font-family: inherit; }
svg .tick { fill: var(--soft); font-size: 10.5px; }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .label { fill: var(--soft); font-size: 10px; paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .label.strong { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 0.75; }
svg .axis { stroke: var(--quiet); stroke-width: 1; }
svg .line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .dot { fill: var(--accent); stroke: var(--card); stroke-width: 1; }
svg .dot.unseen { fill: transparent; stroke: none; }
svg .line.other { stroke: var(--quiet); stroke-dasharray: 6 3; }
svg .dot.other { fill: var(--quiet); }
svg .whisker.own { stroke: var(--accent); }
svg .whisker.other { stroke: var(--quiet); }
svg .reference { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 4 3; }
svg .reference.strong { stroke: var(--ink); }
svg .track { fill: var(--track); }
svg .bar { fill: var(--quiet); }
svg .bar.own { fill: var(--accent); }
svg .own.name, svg .own.value { font-weight: 650; }
svg .whisker { stroke: var(--ink); stroke-width: 1.25; }
.key { display: inline-block; width: 22px; margin-right: 6px; vertical-align: 4px; border-top: 2px solid var(--accent); }
.key.other { border-top: 2px dashed var(--quiet); }
.key.dash { border-top: 1.5px dashed var(--quiet); }

details { margin-top: 14px; }
summary { cursor: pointer; font-size: 14px; color: var(--accent); padding: 2px 0; width: fit-content; }
.scroll { overflow-x: auto; }
.scroll.tall { max-height: 420px; overflow-y: auto; }
details .scroll { margin-top: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 7px 12px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-size: 12.5px; font-weight: 600; color: var(--soft); vertical-align: bottom; line-height: 1.35; }
thead th[scope="colgroup"] { text-align: center; border-bottom: 1px solid var(--quiet); }
tbody th { font-weight: 500; }
table.models td { white-space: nowrap; }
table.models td.wrap { white-space: normal; min-width: 16ch; text-align: left; }
table.claims td:nth-child(-n + 4) { white-space: nowrap; }
td small { display: block; font-size: 12px; line-height: 1.3; color: var(--soft); white-space: nowrap; }
.tall thead th { position: sticky; top: 0; background: var(--card); }
tr.own > *, td.own { background: var(--accent-soft); }
tr.own > th:first-child { padding-left: 10px; font-weight: 650; color: var(--accent); }
table.models th:first-child { padding-left: 10px; }
td.best { font-weight: 700; }
td.best small { font-weight: 400; }
tr.ceiling > * { color: var(--soft); font-style: italic; }
table.claims th, table.claims td, table.config td { text-align: left; }
table.claims td:last-child { min-width: 250px; }
table.claims td:nth-child(5) { min-width: 136px; }
table.claims tbody th { min-width: 150px; font-weight: 600; }
table.config th, table.config td { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; padding: 3px 12px 3px 0; overflow-wrap: anywhere; }
.mark { white-space: nowrap; font-weight: 600; }
table.claims td:nth-child(2), table.claims .mark { white-space: normal; }
.mark.yes { color: var(--accent); }
.mark.no { color: var(--warn); }
.checks { list-style: none; padding: 0; }
.checks li { display: flex; gap: 10px; padding: 5px 0; }
.checks .sign { font-weight: 700; }
.checks .yes .sign, .checks .yes em { color: var(--accent); }
.checks .no .sign, .checks .no em { color: var(--warn); }
.checks em { font-style: normal; font-size: 13px; }
.pairs > div { display: flex; justify-content: space-between; gap: 16px; padding: 5px 0; border-bottom: 1px solid var(--rule); }
.pairs > div:last-child { border-bottom: 0; }
.pairs dt { color: var(--soft); }
.pairs dd { flex: none; max-width: 70%; margin: 0; text-align: right; overflow-wrap: anywhere; }
.pairs + h3, h3.apart { margin-top: 20px; }
.columns .pairs { column-count: 2; column-gap: 36px; }
.columns .pairs > div { break-inside: avoid; }
.bounds { display: grid; gap: 12px; margin: 18px 0; }
.bounds > div { display: grid; grid-template-columns: 230px 110px minmax(0, 1fr); gap: 4px 16px; align-items: baseline; }
.bounds dt { font-weight: 600; }
.bounds dd { margin: 0; color: var(--soft); font-size: 14px; }
.bounds .number { font-size: 17px; font-weight: 600; color: var(--ink); white-space: nowrap; }
footer { color: var(--soft); font-size: 13px; padding: 8px 0; }

@media screen and (max-width: 900px) {
  .columns .pairs { column-count: 1; }
  .charts.three, .charts.two { grid-template-columns: minmax(0, 1fr); }
  .charts.three > figure { max-width: 520px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tiles:not(.six) .tile:nth-child(odd) { border-left: 0; }
  .tiles:not(.six) .tile:nth-child(n + 3) { border-top: 1px solid var(--rule); }
  table.claims, table.claims tbody, table.claims tr, table.claims th, table.claims td { display: block; border: 0; padding: 0; }
  table.claims thead { display: none; }
  table.claims tr { padding: 10px 0; border-bottom: 1px solid var(--rule); }
  table.claims td:nth-child(-n + 5) { display: inline-block; margin-right: 12px; font-size: 13px; }
  table.claims td[data-name]::before { content: attr(data-name) " "; color: var(--soft); }
}
@media screen and (max-width: 560px) {
  .tiles.six { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
  .six .tile:nth-child(n + 3) { grid-column: 1 / -1; border-left: 0; border-top: 1px solid var(--rule); }
  .six .tile:nth-child(2) { border-left: 1px solid var(--rule); }
  .bounds > div { grid-template-columns: minmax(0, 1fr); }
  .page, .stamp p { padding: 0 14px; }
  header { padding-top: 22px; }
  h1 { font-size: 25px; }
  section { padding: 18px 16px 20px; }
  .tile { padding: 12px 14px; }
  .tile-value { font-size: 24px; }
  svg text { font-size: 14px; }
  svg .tick, svg .label { font-size: 12.5px; }
  table.models th:first-child { position: sticky; left: 0; background: var(--card); max-width: 130px; min-width: 110px; }
  table.models tr.own > th:first-child { background: var(--accent-soft); }
}
@media print {
  :root { --page: #fff; --card: #fff; }
  @page { margin: 14mm; }
  body { font-size: 10.5pt; }
  .page, .stamp p { max-width: none; padding: 0; }
  nav, details { display: none; }
  h1 { font-size: 22pt; }
  .tile { padding: 8px 12px; }
  .tile-value { font-size: 17pt; }
  .lead { font-size: 12pt; }
  .charts { gap: 14px 24px; }
  .charts.three { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  table { font-size: 9pt; }
  th, td { padding: 4px 8px; }
  section { border: 0; border-top: 1px solid var(--rule); border-radius: 0; padding: 14px 0; margin: 0; }
  figure, tr, .tiles, .notice, .checks li { break-inside: avoid; }
  h2, h3, figcaption { break-after: avoid; }
  .scroll, .scroll.tall { overflow: visible; max-height: none; }
  .stamp, .notice, .tag, tr.own > *, td.own, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  a { color: inherit; text-decoration: none; }
}
"""
