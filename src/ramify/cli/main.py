"""The `ramify` command."""

from __future__ import annotations

import typer

app = typer.Typer(name="ramify", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Better and cheaper answers from a language model at inference time."""


def run() -> None:
    """The console script."""
    app()
