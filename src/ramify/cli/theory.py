"""`ramify theory`: what a search costs and can win, in closed form. Nothing is generated, no model is loaded.

numpy and rich are imported inside the commands, so that `ramify --help` stays quick.
"""

from __future__ import annotations

import typer

from ramify.cli.theory_search import bon, infalign, kl, speculative_rejection, tilt, treebon, vote
from ramify.cli.theory_speculative import pareto, rejections, speculative

app = typer.Typer(name="theory", no_args_is_help=True)


@app.callback()
def theory() -> None:
    """What search and speculation cost and can win, in closed form: no model is loaded, nothing is generated."""


for command in (bon, kl, speculative_rejection, treebon, tilt, vote, infalign, speculative, rejections, pareto):
    app.command()(command)
