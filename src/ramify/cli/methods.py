"""`ramify methods`: what a search returns, what it costs and which options it takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from ramify.cli.options import method_named, method_options, settable
from ramify.cli.output import say, say_json, screen


def describe(search: Callable[..., Any]) -> dict[str, Any]:
    """A method's card, from its docstring and signature."""
    text = inspect.getdoc(search) or ""
    return {
        "name": search.__name__, "summary": text.splitlines()[0],
        "law": _part(text, "Law"), "cost": _part(text, "Cost"),
        "needs": sorted(getattr(search, "needs", ())),
        "options": {name: None if field.default is field.empty else field.default
                    for name, field in settable(search).items()},
        "takes_reward": "reward" in method_options(search),
        "text": text,
    }


def _part(text: str, heading: str) -> str:
    """What a docstring says after `heading:`, up to the next heading or the end of the paragraph."""
    found = re.search(rf"\b{heading}: (.*?)(?=\b(?:Law|Cost): |\bUse it |\n\n|\Z)", text, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def methods(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """List the search methods: their laws, costs and options."""
    from ramify.search import METHODS

    cards = [describe(search) for search in ([method_named(name)] if name else METHODS.values())]
    if as_json:
        say_json({card["name"]: card for card in cards})
    elif name:
        say(cards[0]["text"])
        say("\nOptions: " + ", ".join(f"{key}={value}" for key, value in cards[0]["options"].items()))
    else:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("method", "what it does", "reward", "options"):
            table.add_column(heading, no_wrap=heading == "method")
        for card in cards:
            table.add_row(card["name"], card["summary"], "yes" if card["takes_reward"] else "no",
                          ", ".join(card["options"]))
        screen().print(table)
