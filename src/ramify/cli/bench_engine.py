"""`ramify bench engine`: the engine's speed beside what bounds it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramify import errors
from ramify.cli.options import Device, Dtype, Executor, KVDtype
from ramify.cli.output import keep_picture, notes, say_json, screen
from ramify.errors import OptionError, RamifyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ramify.bench.engine import Workload
    from ramify.trace import Row

ALL = "single,batch16,batch64,shared16,shared64,prefix2048x64,prefill1024"


def engine(
    model: Annotated[str, typer.Option(help="Folder, hub id, embedded, random:135m or random:5m.")] = "mini-math",
    workloads: Annotated[str, typer.Option(help="Names, separated by commas; default: all seven.",
                                           show_default=False)] = ALL,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 3,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Tokens of each candidate; default: 128.")] = None,
    dtype: Dtype = "float32",
    executor: Executor = "auto",
    kv_dtype: KVDtype = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts and every draw.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """The engine's speed on seven shapes of work, beside what bounds it.

    single: one prompt of 32 tokens. batch16, batch64: so many. shared16, shared64: so many candidates of one prompt of
    256; prefix2048x64 of one of 2,048. prefill1024: a prompt alone. Each runs in a process of its own.
    """
    from ramify.bench.engine import named
    from ramify.bench.random_model import named_folder

    if plot is not None:
        from ramify.bench.plot import need_matplotlib

        need_matplotlib()  # before the work, not after it
    wanted = named(workloads, max_tokens)
    options = {"model": named_folder(model), "dtype": dtype, "executor": executor, "kv_dtype": kv_dtype,
               "device": device}
    report: Row = {"bench": "engine", "model": model, "dtype": dtype, "kv_dtype": kv_dtype or dtype, "device": device,
                   "seed": seed, "repeats": repeats, "command": shlex.join(["ramify", *sys.argv[1:]]),
                   **_measure(options, wanted, repeats, seed, may_skip=workloads == ALL)}
    if as_json:
        say_json(report)
    else:
        _show(report)
    if plot is not None:
        from ramify.bench.engine_report import draw

        keep_picture(plot, draw(report))


def _measure(options: Row, wanted: list[Workload], repeats: int, seed: int, may_skip: bool) -> Row:
    """One child after another, with a bar that knows how many runs there are."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from ramify.bench.engine_report import summary

    with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=notes(),
                  transient=True) as progress:
        bar = progress.add_task("machine and model", total=1 + repeats * (1 + len(wanted)))
        probe = child({"job": "probe", "options": options})
        fitting, left_out = _fitting(wanted, probe["positions"], may_skip)
        progress.update(bar, advance=1, total=1 + repeats * (1 + len(fitting)), description="cold start")
        cold = []
        for _ in range(repeats):
            seen: list[Row] = []
            began = time.time()
            child({"job": "cold", "options": options, "seed": seed}, seen.append)
            cold.append(seen[0]["first_token_at"] - began)
            progress.update(bar, advance=1)
        rows = []
        for each in fitting:
            progress.update(bar, description=each.name)
            job = {"job": "workload", "options": options, "name": each.name, "tokens": each.tokens, "repeats": repeats,
                   "seed": seed}
            rows.append(child(job, lambda _: progress.update(bar, advance=1)))
    return {**summary(probe, cold, rows), "left_out": left_out}


def _fitting(wanted: list[Workload], positions: int, may_skip: bool) -> tuple[list[Workload], dict[str, str]]:
    """Those that the model's context holds, and why the others are left out. Asked for by name, they are an error."""
    long = {each.name: f"needs a context of {each.positions}, the model's is {positions}" for each in wanted
            if each.positions > positions}
    if long and not may_skip:
        raise OptionError(f"workloads of at most {positions} tokens", f"{next(iter(long))}, which "
                          f"{next(iter(long.values())).partition(',')[0]}", "leave it out or use another model")
    return [each for each in wanted if each.name not in long], long


def child(job: Row, note: Callable[[Row], None] = lambda _: None) -> Row:
    """What a process of its own finds; `note` gets its lines before the last one.

    Raises what a mistake of the user raised in it, and `RamifyError` when it died.
    """
    with subprocess.Popen([sys.executable, "-m", "ramify.bench.engine_child"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        with process.stdin as asked:
            json.dump(job, asked)
        last: dict[str, Any] | None = None
        for line in process.stdout:
            if last is not None:
                note(last)
            last = json.loads(line)
    if process.returncode or last is None:
        raise RamifyError("a process that ends well", f"exit code {process.returncode}", "see what it wrote above")
    if "error" in last:
        kind, *said = last["error"]
        raise getattr(errors, kind)(*said)
    return last


def _show(report: Row) -> None:
    from rich import box
    from rich.table import Table

    from ramify.bench.engine_report import columns, lines

    console = screen()
    heads, cells = columns(report)
    table = Table(box=box.SIMPLE_HEAD)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at == 0 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    console.print(table)
    for line in lines(report):
        console.print(line)
    console.print(f"printed by: {report['command']}")
