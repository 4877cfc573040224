"""`ramify demo`: the same problems solved by four methods, side by side."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ramify.cli.output import notes, say_json, screen
from ramify.trace import Trace, read_trace
from ramify.trace.view import footer, tree
from ramify.types import ROLES, Result

if TYPE_CHECKING:
    from ramify.minis.problems import Problem

METHODS = ("sample", "best_of_n", "speculative_rejection", "treebon")
SHOWN = "treebon"  # whose tree is drawn


def demo(
    count: Annotated[int, typer.Option("--problems", min=1, help="How many problems.")] = 3,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Candidates of each search.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the problems and of every random choice.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 96,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Solve problems with the embedded model: sampling and three searches, and the tree of one."""
    import ramify
    from ramify.minis.problems import is_correct, problems

    llm = ramify.load("mini-math")
    console = screen()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, problem in enumerate(problems("evaluation", count, seed), 1):
            table = _heading(console, number, problem, quiet=as_json)
            for method in METHODS:
                with Trace(Path(folder) / f"{number}-{method}.jsonl") as trace:
                    width = 1 if method == "sample" else n
                    result = llm.generate(problem.question, method, n=width, seed=seed, max_tokens=max_tokens,
                                          trace=trace.write)
                rows.append(_row(number, problem, result, is_correct(problem, result.text)))
                _add(table, rows[-1])
            if not as_json:
                console.print(table)
        if as_json:
            say_json({"model": "mini-math", "n": n, "seed": seed, "results": rows, "totals": _totals(rows)})
            return
        [shown] = read_trace(Path(folder) / f"{count}-{SHOWN}.jsonl")
    console.print(f"\nThe search tree of {SHOWN} on problem {count} "
                  "(★ the way to the answer, ┬ branched, ✗ dropped, numbers: score@token)\n", style="bold")
    console.print(tree(shown))
    console.print()
    console.print(footer(shown))
    _conclude(console, rows)
    notes().print('next: ramify generate "Ann has 3 apples and buys 4. How many does Ann have?" --method treebon',
                  style="dim")


def _row(number: int, problem: Problem, result: Result, correct: bool) -> dict[str, Any]:
    """What one method made of one problem."""
    usage = result.usage
    return {"problem": number, "question": problem.question, "expected": problem.answer, "method": result.method,
            "text": result.text, "reward": result.reward, "correct": correct,
            "forward_tokens": {role: usage.role(role).tokens for role in ROLES if usage.role(role).calls},
            "flops": usage.flops, "wall_seconds": usage.wall_seconds}


def _totals(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per method: problems solved and compute spent."""
    totals = {}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        totals[method] = {"correct": sum(row["correct"] for row in own), "problems": len(own),
                          "forward_tokens": sum(sum(row["forward_tokens"].values()) for row in own),
                          "flops": sum(row["flops"] for row in own)}
    return totals


def _heading(console: Console, number: int, problem: Problem, *, quiet: bool) -> Table:
    """Print the question and open the table of its answers."""
    if not quiet:
        console.print(Text.assemble((f"\nProblem {number}  ", "bold"), problem.question,
                                    (f"  (the answer is {problem.answer})", "dim")))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method", min_width=max(map(len, METHODS)))
    for heading in ("answer", "", "reward"):
        table.add_column(heading, max_width=20)
    for heading in ("tokens read", "by the reward", "FLOPs"):
        table.add_column(heading, justify="right")
    return table


def _add(table: Table, row: dict[str, Any]) -> None:
    reward = "" if row["reward"] is None else f"{row['reward']:+.2f}"
    mark = Text("correct", "green") if row["correct"] else Text("wrong", "red")
    last = (row["text"].splitlines() or [""])[-1]
    table.add_row(row["method"], Text(last, no_wrap=True, overflow="ellipsis"), mark, reward,
                  *(str(row["forward_tokens"].get(role, "")) for role in ("target", "reward")), f"{row['flops']:.1e}")


def _conclude(console: Console, rows: list[dict[str, Any]]) -> None:
    """Totals per method, compute also as a multiple of plain sampling."""
    totals = _totals(rows)
    table = Table(box=box.SIMPLE_HEAD, title="All problems", title_justify="left")
    for heading in ("method", "correct", "forward tokens", "FLOPs", "× sampling"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method, total in totals.items():
        table.add_row(method, f"{total['correct']} of {total['problems']}", str(total["forward_tokens"]),
                      f"{total['flops']:.2e}", f"{total['flops'] / totals['sample']['flops']:.1f}")
    console.print(table)
