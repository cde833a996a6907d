"""The frame and the style sheet of the page; colours are those of Okabe and Ito, lighter on dark ground."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ground: #fff; --ink: #1b1b1b; --soft: #595959; --line: #ddd; --head: #f3f3f3; --accent: #0b5cad; --faint: #c9c9c9;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b3528c; --c4: #b07800; --c5: #2f8fce; --c6: #7a5cc4; --c7: #6b6b00; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #15181c; --ink: #e8e8e8; --soft: #a9afb6; --line: #383d44;
  --head: #20252b; --accent: #7cb8ff; --faint: #4a5058;
  --c0: #4aa8e0; --c1: #f0853a; --c2: #2fc79a; --c3: #e59ac4; --c4: #e6b34a; --c5: #8fd0ff; --c6: #b49bf0; --c7: #c9c94f; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 76rem; margin: 0 auto; padding: 1rem; }}
h1, h2, h3, h4 {{ line-height: 1.25; }}
h2 {{ border-top: 2px solid var(--line); padding-top: 1rem; margin-top: 2.5rem; }}
a {{ color: var(--accent); }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; }}
.skip {{ position: absolute; left: -99rem; }}
.skip:focus {{ left: 1rem; background: var(--ground); padding: .5rem; }}
nav ul, .legend {{ display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; }}
.legend {{ font-size: .9rem; }}
.legend li {{ display: inline-flex; align-items: center; gap: .35rem; }}
.count, .note, figcaption, caption {{ color: var(--soft); }}
.note {{ font-size: .85em; white-space: normal; }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; padding: .25rem 0; }}
th, td {{ padding: .3rem .65rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }}
th:first-child {{ text-align: left; }}
thead th {{ background: var(--head); vertical-align: bottom; }}
th, td {{ white-space: nowrap; }}
thead th, .facts td {{ white-space: normal; }}
.facts td {{ text-align: left; min-width: 7rem; }}
.facts thead th {{ text-align: left; }}
tbody th {{ font-weight: normal; }}
tbody tr:hover > * {{ background: var(--head); }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }}
.charts.small {{ grid-template-columns: repeat(auto-fill, minmax(min(14.5rem, 100%), 1fr)); gap: .75rem; }}
figure {{ margin: 0; }}
figcaption {{ font-size: .9rem; overflow-wrap: anywhere; }}
.chart {{ width: 100%; max-width: 36rem; height: auto; }}
.chart text {{ fill: var(--ink); font: 12px system-ui, sans-serif; }}
.chart .tick, .chart .small {{ fill: var(--soft); font-size: 11px; }}
.grid {{ stroke: var(--line); fill: none; }}
.frame {{ stroke: var(--soft); fill: none; }}
.level {{ stroke: var(--soft); stroke-dasharray: 5 4; fill: none; }}
.line {{ fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }}
.dashed .line {{ stroke-dasharray: 5 4; }}
.bar {{ stroke: var(--c); stroke-width: 1.2; opacity: .55; fill: none; }}
.mark {{ fill: var(--c); stroke: var(--ground); stroke-width: .8; }}
.touch {{ fill: transparent; stroke: none; }}
.faint {{ --c: var(--faint); }}
.faint .line {{ stroke-width: 1; }}
.front .line {{ stroke: var(--soft); stroke-width: 5; opacity: .22; }}
.faint.dashed .line {{ stroke: var(--soft); stroke-width: 1.3; }}
.s0 {{ --c: var(--c0); }} .s1 {{ --c: var(--c1); }} .s2 {{ --c: var(--c2); }} .s3 {{ --c: var(--c3); }}
.s4 {{ --c: var(--c4); }} .s5 {{ --c: var(--c5); }} .s6 {{ --c: var(--c6); }} .s7 {{ --c: var(--c7); }}
details {{ margin: .5rem 0; }}
summary {{ cursor: pointer; }}
pre {{ overflow: auto; max-height: 24rem; background: var(--head); padding: .75rem; font-size: .8rem; }}
code, li {{ overflow-wrap: anywhere; }}
@media print {{ body {{ max-width: none; }} nav, .skip {{ display: none; }} section, figure, tr {{ break-inside: avoid-page; }}
  .wide {{ overflow: visible; }} a {{ color: inherit; }} }}
</style>
</head>
<body>
<a class="skip" href="#main">Skip to the records</a>
<header>
<h1>{title}</h1>
<p class="count">{count}</p>
<nav aria-label="Sections"><ul>{contents}</ul></nav>
</header>
<main id="main">
{body}
</main>
</body>
</html>
"""
