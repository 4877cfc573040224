"""The `ramify` command: every subcommand is mounted here."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Annotated

import typer

import ramify
from ramify.cli.bench import app as bench
from ramify.cli.demo import demo
from ramify.cli.env import env
from ramify.cli.generate import generate
from ramify.cli.methods import methods
from ramify.cli.output import complain, say
from ramify.cli.plan import plan
from ramify.cli.reward import app as reward
from ramify.cli.theory import app as theory
from ramify.cli.verify import verify
from ramify.cli.view import view
from ramify.errors import RamifyError, UserError

# Flags may be written with underscores too.
app = typer.Typer(name="ramify", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={"token_normalize_func": lambda word: word.replace("_", "-"),
                                    "help_option_names": ["-h", "--help"]})


def _version(asked: bool) -> None:
    if asked:
        say(f"ramify {ramify.__version__}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                               help="Show the version.")] = False) -> None:
    """Better and cheaper answers from a language model at inference time."""


for command in (generate, view, methods, plan, demo, verify, env):
    app.command()(command)
app.add_typer(bench)
app.add_typer(reward)
app.add_typer(theory)


def run() -> None:
    """The console script: 2 for a user's mistake, 1 for what else went wrong, 130 after an interrupt."""
    atexit.register(gc.freeze)  # or everything would be looked through once more at the end
    try:
        app()
    except RamifyError as error:
        complain(error)
        sys.exit(2 if isinstance(error, UserError) else 1)
