"""The style of a report's page, light and dark."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --quiet: #5b6675; --paper: #f6f7f9; --card: #fff;
  --line: #dde2e9;
  --bar: #4a7bd0; --before: #8a94a6; --after: #2f6fd6; --good: #1a7f4b; --bad: #c0352b; --note: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf2; --quiet: #9aa6b8; --paper: #12161d;
  --card: #1a2029;
  --line: #2c3542; --bar: #6b9bea; --before: #7d899c; --after: #6ba4ff; --good: #4cc38a; --bad: #ff7b70;
  --note: #3a3215; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Apple SD Gothic Neo", "Noto Sans KR", "Malgun Gothic",
    "NanumGothic", sans-serif; word-break: keep-all; overflow-wrap: anywhere; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 12px; } h2 { font-size: 18px; margin: 0 0 12px; }
h3, h4 { margin: 12px 0 4px; font-size: 14px; } h4 { color: var(--quiet); font-weight: 600; margin-top: 0; }
p { margin: 4px 0; } .quiet { color: var(--quiet); font-weight: 400; font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin-top: 16px; }
.sides { margin: 0 0 6px; display: grid; gap: 4px; } .sides div { display: flex; gap: 10px; }
.sides dt { color: var(--quiet); flex: 0 0 54px; } .sides dd { margin: 0; }
  .sides span { color: var(--quiet); }
.note { background: var(--note); border-radius: 6px; padding: 8px 12px; margin-top: 10px; }
.gates { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); }
.gates li { border: 1px solid var(--line); border-left: 5px solid var(--good); border-radius: 6px;
  padding: 10px 12px; display: grid; gap: 2px; }
.gates .broken { border-left-color: var(--bad); } .gates .unknown { border-left-color: var(--quiet); }
  .unknown .mark { color: var(--quiet) !important; } .gates b { font-size: 13px; font-weight: 600; }
.gates .figure { font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.2; }
.mark { color: var(--good); font-size: 13px; font-weight: 600; } .broken .mark { color: var(--bad); }
.plots { display: grid; gap: 26px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figure { margin: 0; } figcaption { margin-bottom: 10px; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 13px; font-family: inherit; } svg .tick { fill: var(--quiet);
  text-anchor: middle; } svg .start { text-anchor: start; } svg .end { text-anchor: end; }
svg .n { text-anchor: middle; } svg .label { text-anchor: end; } svg .value { fill: var(--quiet); }
svg .bar { fill: var(--bar); } svg .axis { stroke: var(--line); }
svg .before .box { fill: var(--before); } svg .after .box { fill: var(--after); }
svg .whisker { stroke: var(--quiet); stroke-width: 2; } svg .median { stroke: var(--card); stroke-width: 2; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; overflow-wrap: break-word; white-space: normal; font-weight: 500; }
  thead th { color: var(--quiet);
  font-size: 13px; font-weight: 500; } tbody tr:last-child > * { border-bottom: 0; }
tr.sum > * { font-weight: 650; } tr.break th { color: var(--quiet); font-size: 13px; padding-top: 14px; }
meter { width: 54px; height: 8px; margin-right: 8px; vertical-align: middle;
  accent-color: var(--bar); }
meter::-webkit-meter-optimum-value { background: var(--bar); }
meter::-webkit-meter-bar { background: var(--line); border: 0; }
.worse { color: var(--bad); font-weight: 600; } .better { color: var(--good); font-weight: 600; }
details { border-top: 1px solid var(--line); padding: 10px 0; } details:first-of-type { border-top: 0;
  padding-top: 0; }
summary { cursor: pointer; } .pair { display: grid; gap: 24px; margin-top: 10px;
  grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); align-items: start; }
ol { margin: 0; padding: 0; list-style: none; counter-reset: rank; }
ol li { counter-increment: rank; display: grid; grid-template-columns: 26px auto 1fr auto; gap: 8px;
  padding: 3px 8px;
  border-left: 3px solid transparent; align-items: baseline; }
ol li::before { content: counter(rank); color: var(--quiet); text-align: right;
  font-variant-numeric: tabular-nums; }
ol li > .quiet { grid-column: 4; white-space: nowrap; } .id { font-weight: 600; } .title { grid-column: 3; }
ol .only { border-left-color: var(--bad);
  } .pair > div:last-child ol .only { border-left-color: var(--after); }
.empty { columns: 3; padding-left: 18px; margin: 4px 0; } code { font-size: 13px; }
@media (max-width: 560px) { .empty { columns: 1; } main { padding: 16px 10px 40px; } }
"""
