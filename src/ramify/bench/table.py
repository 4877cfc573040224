"""The summary for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ramify.bench.report import GOALS, label


def tables(report: dict[str, Any]) -> list[RenderableType]:
    """The cells, the compute to reach the reference, the head-to-heads, and what it all says."""
    parts: list[RenderableType] = [_table(f"{report['problems']} problems, means per problem", *cell_columns(report))]
    if report["to_reach"]:
        name = f"{report['reference']['method']} n={report['reference']['n']}"
        parts.append(_table(f"Compute to reach {name} (log-linear between measured widths)", *reach_columns(report)))
    if any("head_to_head" in row for row in report["rows"]):
        parts.append(_table("Head-to-head against Best-of-N at equal generated tokens, ties half",
                            *match_columns(report)))
    lines = [*report["findings"], *footnotes(report), f"printed by: {report['command']}"]
    return [*parts, Text("\n".join(lines))]


def _table(title: str, heads: list[str], lines: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at == 0 else "right")
    for line in lines:
        table.add_row(*line)
    return table


def cell_columns(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the main table."""
    heads = ["method", "n", "accuracy", "95 %", "reward", "95 %", "answer\ntokens", "generated\ntokens",
             "forward tokens\nby model", "FLOPs\nby model", "FLOPs", "seconds\n(ideal)"]
    lines = []
    for row in report["rows"]:
        mark = " *" if row["reward_judged_afterwards"] else ""
        reward, spread = ("-", "-") if row["reward"] is None else (
            f"{row['reward']:.3f}{mark}", " to ".join(f"{edge:.2f}" for edge in row["reward_interval"]))
        lines.append([label(row), str(row["n"]), f"{row['accuracy']:.1%}",
                      " to ".join(f"{100 * edge:.0f}" for edge in row["accuracy_interval"]), reward, spread,
                      f"{row['answer_tokens']:.1f}", f"{row['generated_tokens']:.0f}", _roles(row["tokens"], ".0f"),
                      _roles(row["flops"], ".2e"), f"{row['flops']['total']:.2e}", _seconds(row)])
    return heads, lines


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['wall_seconds']:.3f}" + ("" if row["ideal_seconds"] is None else f" ({row['ideal_seconds']:.3f})")


def _roles(page: dict[str, float], form: str) -> str:
    return "\n".join(f"{value:{form}} {role}" for role, value in page.items() if role != "total")


def reach_columns(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: FLOPs and forward tokens, and their share of the reference's."""
    heads = ["method", *(f"{goal}: {what}" for goal in GOALS for what in ("FLOPs", "tokens", "share of FLOPs", "95 %"))]
    lines = []
    for entry in report["to_reach"]:
        line = [label(entry)]
        for goal in GOALS:
            reach = entry.get(goal, "unknown")
            if reach is None or reach == "unknown":
                line += ["not reached" if reach is None else "-", "", "", ""]
                continue
            most = "≤ " if reach["at_most"] else ""
            low, high = (f"{edge:.2f}" if edge < float("inf") else "never" for edge in reach["share_of_flops_interval"])
            line += [f"{most}{reach['flops']:.2e}", f"{most}{reach['tokens']:.0f}",
                     f"{most}{reach['share_of_flops']:.2f}", f"{low} to {high}"]
        lines.append(line)
    return heads, lines


def match_columns(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: the equivalent width and both win rates."""
    heads = ["method", "n", "Best-of-N's n", "wins by reward", "95 %", "wins by correctness", "95 %"]
    lines = []
    for row in report["rows"]:
        match = row.get("head_to_head")
        if match is None:
            continue
        line = [label(row), str(row["n"]), f"{match['matched_n']:.1f}{' †' if match['beyond_pool'] else ''}"]
        for goal in ("reward", "accuracy"):
            if goal in match:
                low, high = match[f"{goal}_interval"]
                line += [f"{match[goal]:.1%}", f"{100 * low:.0f} to {100 * high:.0f}"]
            else:
                line += ["-", ""]
        lines.append(line)
    return heads, lines


def footnotes(report: dict[str, Any]) -> list[str]:
    """What was set for one method only, and what the marks mean."""
    chosen = {label(row): ", ".join(f"{key} = {value}" for key, value in row["options"].items())
              for row in report["rows"] if row["options"]}
    notes = [f"{name}: {options}." for name, options in chosen.items()]
    if any(row["reward_judged_afterwards"] for row in report["rows"]):
        notes.append("* the method does not use this reward: its answers were scored afterwards, outside its ledger.")
    if any(row["ideal_seconds"] is not None for row in report["rows"]):
        notes.append("Ideal seconds: every step at its price with the machine to itself, by a fit to measured ones.")
    if any(row.get("head_to_head", {}).get("beyond_pool") for row in report["rows"]):
        notes.append("† more tokens than the pool has: compared with Best-of-N of the whole pool. Raise --pool.")
    return notes
