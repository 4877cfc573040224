"""How the commands of `ramify theory` answer: one JSON object, or a table and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ramify.cli.output import say_json, screen

Row = dict[str, Any]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]

UNITS = {"kl": "nats", "kl_bound": "nats", "kl_bound_given_top": "nats", "kl_plug_in": "nats", "start": "token",
         "end": "token", "live": "candidates", "width": "candidates", "parents": "survivors"}


def show(data: Row, rows: Sequence[Row], conclusion: str, as_json: bool) -> None:
    """One JSON object, or a table with units and a plain sentence."""
    if as_json:
        say_json(data | {"rows": list(rows)})
        return
    from rich.table import Table

    names = [name for name in rows[-1] if not name.endswith(("_low", "_high"))]
    table = Table()
    for name in names:
        unit = f"\n({UNITS[name]})" if name in UNITS else ""
        table.add_column(name.replace("_", " ") + unit, justify="right")
    for row in rows:
        table.add_row(*(cell(row.get(name)) + _interval(row, name) for name in names))
    screen().print(table)
    screen().print(conclusion)


def cell(value: object) -> str:
    """A number as a table shows it."""
    if value is None or isinstance(value, str):
        return value or "-"
    assert isinstance(value, int | float)
    if abs(value - round(value)) < 1e-12:  # rounding, not a number to show
        return f"{round(value):,}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def _interval(row: Row, name: str) -> str:
    return f"\n{cell(row[f'{name}_low'])} to {cell(row[f'{name}_high'])}" if f"{name}_low" in row else ""
