"""`ramify reward`: what a reward model says, and whether it can be trusted to say it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ramify.cli.options import Device
from ramify.cli.output import say_json, screen
from ramify.errors import DataError
from ramify.trace import read_rows

TOLERANCE = 1e-3  # float32 rounding through a few dozen layers stays well below; a wrong template or padding does not

app = typer.Typer(name="reward", no_args_is_help=True, help="Check a reward model.")


@app.callback()
def root() -> None:
    """Check a reward model."""


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Folder, hub id or embedded model.")] = "mini-math-reward",
    texts: Annotated[Path | None, typer.Option(help="JSON lines: prompt, answer; default: eight samples.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Answers read in one forward.")] = 8,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Score answers alone, in a batch, in two parts and with transformers; exit code 1 if they differ."""
    from ramify.models import load_model
    from ramify.rewards.check import SAMPLES, check_reward

    loaded = load_model(model, head=True, device=device)
    rows = check_reward(loaded, _read(texts) if texts else SAMPLES, batch)
    worst = max(row.spread for row in rows)
    verdict = "the same however it is asked" if worst <= TOLERANCE else "DIFFERENT depending on how it is asked"
    if as_json:
        say_json({"model": model, "tolerance": TOLERANCE, "largest_difference": worst, "ok": worst <= TOLERANCE,
                  "rows": [{**asdict(row), "spread": row.spread} for row in rows]})
    else:
        table = Table(title=f"{model}: raw logits at the last token", title_justify="left")
        for heading in ("answer", "tokens", "alone", f"batch of {batch}", "in two parts", "transformers"):
            table.add_column(heading, justify="left" if heading == "answer" else "right", max_width=40, no_wrap=True)
        for row in rows:
            reference = "not installed" if row.reference is None else f"{row.reference:+.5f}"
            table.add_row(row.answer.replace("\n", " ⏎ "), str(row.tokens), f"{row.alone:+.5f}", f"{row.together:+.5f}",
                          f"{row.incremental:+.5f}", reference)
        screen().print(table)
        screen().print(f"Largest difference {worst:.1e}: the reward is {verdict}.")
    raise typer.Exit(0 if worst <= TOLERANCE else 1)


def _read(path: Path) -> list[tuple[str, str]]:
    """(prompt, answer) of every line. Raises `DataError` naming the first bad one."""
    pairs = []
    for number, row in read_rows(path):
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("answer"), str):
            raise DataError(f"prompt and answer in line {number} of {path}", str(sorted(row)), "mend the line")
        pairs.append((row["prompt"], row["answer"]))
    return pairs
