"""`ramify view`: a trace as a tree in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ramify.cli.output import say_json, screen
from ramify.errors import OptionError
from ramify.trace import read_trace
from ramify.trace.view import footer, overview, summary, tree


def view(
    path: Annotated[Path, typer.Argument(help="A file that --trace wrote.", show_default=False)],
    request: Annotated[int | None, typer.Option(help="Show this request, counted from 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show a trace: its candidates, their scores, where they were dropped, and the cost."""
    requests = read_trace(path)
    if request is not None:
        if not 1 <= request <= len(requests):
            raise OptionError(f"a request between 1 and {len(requests)}", str(request),
                              "leave it out to see the list")
        requests = [requests[request - 1]]
    if as_json:
        say_json({"path": str(path), "requests": [summary(one) for one in requests]})
    elif len(requests) > 1:
        screen().print(overview(requests))
    else:
        for part in (tree(requests[0]), "", footer(requests[0])):
            screen().print(part)
