"""The summary as one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import Any

from ramify.bench.table import cell_columns, footnotes, match_columns, reach_columns

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.setup, .notes { color: #555; } svg { width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e5e5e5; vertical-align: top;
  white-space: pre-line; }
th { border-bottom: 2px solid #999; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
code { background: #f4f4f4; padding: .15rem .35rem; border-radius: 3px; overflow-wrap: anywhere; }
"""


def page(report: dict[str, Any], svg: str) -> str:
    """The page's text: what was found, the picture, the tables and the command that makes it again."""
    goal = report["reference"]
    parts = [f"<h1>{escape(_title(report))}</h1>", f'<p class="setup">{escape(_setup(report))}</p>',
             "<ul>", *(f"<li>{escape(line)}</li>" for line in report["findings"]), "</ul>", svg,
             "<h2>Every method at every width, means per problem</h2>", _table(*cell_columns(report))]
    if goal is not None:
        parts += [f"<h2>Compute to reach Best-of-{goal['n']}</h2>", _table(*reach_columns(report)),
                  '<p class="notes">Log-linear between measured widths; nothing is extrapolated.</p>']
    if any("head_to_head" in row for row in report["rows"]):
        parts += ["<h2>Head-to-head against Best-of-N at equal generated tokens</h2>", _table(*match_columns(report)),
                  '<p class="notes">Ties count half. Best-of-N is estimated from a pool of samples of its own.</p>']
    parts += [*(f'<p class="notes">{escape(note)}</p>' for note in footnotes(report)),
              f"<p>Made by <code>{escape(report['command'])}</code></p>"]
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(_title(report))}</title>'
            f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n")


def _title(report: dict[str, Any]) -> str:
    return f"Search methods on {report['problems']} problems"


def _setup(report: dict[str, Any]) -> str:
    sampling = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report["sampling"].items())
    return f"model {report['model']}, reward {report['reward']}, {sampling}, seed {report['seed']}, intervals 95 %"


def _table(heads: list[str], lines: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
