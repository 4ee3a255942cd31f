"""The look of a report, on light, on dark and on paper; the plots use its colours by name."""

LIGHT = """
  --paper: #ffffff; --ink: #1c2127; --quiet: #5b6570; --rule: #d5dae0; --tint: #f4f6f8;
  --teacher: #4b5560; --labels: #c8500a; --smoothing: #00805e; --softened-labels: #a8488a;
  --distilled: #0a66b0; --specialized: #6f47b8; --notice: #fff4d6;
"""

DARK = """
  --paper: #14181d; --ink: #e6eaee; --quiet: #9aa5b1; --rule: #3a434d; --tint: #1d232a;
  --teacher: #b4bec8; --labels: #ff9a52; --smoothing: #3fcf9f; --softened-labels: #ea9dcb;
  --distilled: #5db7ff; --specialized: #b79cf2; --notice: #3a3010;
"""

CSS = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
* {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}}
main {{ max-width: 980px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ margin: 0; font-size: 30px; line-height: 1.2; overflow-wrap: anywhere; }}
header p {{ margin: 6px 0 0; color: var(--quiet); }}
h2 {{
  margin: 44px 0 14px; padding-bottom: 6px; border-bottom: 1px solid var(--rule); font-size: 19px;
}}
aside {{ margin-top: 22px; padding: 12px 18px; border-radius: 6px; background: var(--notice); }}
aside p, aside ul {{ margin: 0; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 12px; margin: 22px 0 0; }}
.tiles div {{
  flex: 1 1 160px; padding: 12px 16px; border-radius: 6px; background: var(--tint);
  border: 1px solid var(--rule);
}}
.tiles dt {{ color: var(--quiet); font-size: 13px; }}
.tiles dd {{ margin: 2px 0 0; font-size: 25px; font-weight: 600; }}
.wide {{ overflow-x: auto; }}
table {{ width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 7px 0 7px 14px; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ padding-left: 0; text-align: left; }}
thead th {{
  color: var(--quiet); font-weight: 500; font-size: 13px; border-bottom: 1px solid var(--rule);
  white-space: normal; vertical-align: bottom;
}}
tbody th {{ font-weight: 600; }}
tbody tr + tr > * {{ border-top: 1px solid var(--tint); }}
figure {{ margin: 22px 0 0; }}
figure svg {{ display: block; width: 100%; height: auto; }}
figure.wide svg {{ min-width: 560px; }}
figure svg * {{ stroke-linejoin: round; stroke-linecap: butt; }}
.plots {{
  display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 28px;
}}
.legend {{ display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0; }}
.legend svg {{ vertical-align: middle; }}
.note {{ margin: 12px 0 0; color: var(--quiet); font-size: 13px; }}
pre {{
  margin: 0; padding: 14px 18px; border-radius: 6px; background: var(--tint); font-size: 13px;
  columns: 3 210px; white-space: pre-wrap; overflow-wrap: anywhere;
}}
.hashes td, .hashes th {{ text-align: left; font-size: 13px; vertical-align: top; }}
.hashes td:last-child {{
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 11px; white-space: normal;
  overflow-wrap: anywhere;
}}
@media print {{
  :root {{ color-scheme: light; }}
  body {{ font-size: 10pt; }}
  table, thead th, .note, pre {{ font-size: 8.5pt; }}
  th, td {{ padding: 4pt 0 4pt 8pt; }}
  .wide {{ overflow-x: visible; }}
  .hashes td, .hashes th {{ font-size: 8.5pt; padding-top: 2pt; padding-bottom: 2pt; }}
  .hashes td:last-child {{ font-size: 7.5pt; }}
  main {{ max-width: none; padding: 0; }}
  figure, tr, aside, .tiles {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
  .plots {{ grid-template-columns: 1fr 1fr; }}
}}
"""
