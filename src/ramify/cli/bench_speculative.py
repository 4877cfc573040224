"""`ramify bench speculative`: what a draft is worth, measured beside what theory expects."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramify.cli.options import Device, Dtype, Executor, KVDtype
from ramify.cli.output import keep_picture, notes, say_json, screen
from ramify.errors import OptionError

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.bench.speculative import Cell, Workload
    from ramify.bench.speculative_text import Reading
    from ramify.trace import Row


def speculative(
    model: Annotated[str, typer.Option(help="Folder, hub id or embedded model.")] = "mini-math",
    draft: Annotated[str, typer.Option(help="Model, ngram, suffix or suffix+MODEL.")] = "mini-math-draft",
    prompts: Annotated[str, typer.Option(help="How many embedded problems, or a JSONL file.")] = "16",
    rows: Annotated[int, typer.Option(min=1, help="Requests decoded together.")] = 1,
    lengths: Annotated[str, typer.Option(help="Draft lengths; measured: the engine picks.")] = "1,2,4,8,measured",
    verifiers: Annotated[str, typer.Option(help="token, block, coupled, traversal ...")] = "block",
    tree: Annotated[str, typer.Option(help="Trees too, such as 2x1x1,iid:2x1x1.")] = "",
    temperature: Annotated[float, typer.Option(help="1 samples the model as it is.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Of the problems and every draw.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each, by turns.")] = 3,
    dtype: Dtype = "float32",
    executor: Executor = "auto",
    kv_dtype: KVDtype = None,
    device: Device = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Write a PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """What a draft is worth: acceptance, tokens per target call and speed, measured and expected.

    Acceptance comes from text the target wrote, read once by both models; speed from runs by turns with plain
    decoding, prompts remembered. A length of "measured" uses the coupled verifier and picks its length as it goes.
    """
    from ramify.bench.speculative import PLAIN, Workload

    if plot is not None:
        from ramify.bench.plot import need_matplotlib

        need_matplotlib()  # before the work, not after it
    cells = [PLAIN, *_cells(lengths, verifiers, tree)]
    workload = Workload(_prompts(prompts, seed), rows, {"temperature": temperature, "max_tokens": max_tokens}, seed)
    how = {"dtype": dtype, "executor": executor, "kv_dtype": kv_dtype, "device": device}
    llm = _load(model, draft, how, cells, workload)
    report: Row = {
        "bench": "speculative", "model": model, "draft": draft, **how, "prompts": len(workload.prompts), "rows": rows,
        "sampling": workload.sampling, "seed": seed, "repeats": repeats,
        "command": shlex.join(["ramify", *sys.argv[1:]]), **_measure(llm, workload, cells, repeats)}
    if as_json:
        say_json(report)
    else:
        _show(report)
    if plot is not None:
        from ramify.bench.speculative_plot import draw

        keep_picture(plot, draw(report))


def _cells(lengths: str, verifiers: str, tree: str) -> list[Cell]:
    """Every length with every verifier, then every tree with those that take one."""
    from ramify.bench.speculative import MEASURED, Cell
    from ramify.speculative.speculation import CHAINS

    def parts(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    cells = []
    for part in parts(lengths):
        if part != MEASURED and not (part.isdecimal() and int(part)):
            raise OptionError(f"draft lengths of at least 1, or {MEASURED}", repr(part), "write them as 1,2,4,8")
        # Other verifiers would make the text depend on the clock.
        cells += [Cell("coupled")] if part == MEASURED else [Cell(name, int(part)) for name in parts(verifiers)]
    branching = [name for name in parts(verifiers) if name not in CHAINS] or ["traversal"]
    cells += [Cell(name, None, shape) for shape in parts(tree) for name in branching]
    if not cells:
        raise OptionError("a length or a tree to measure", "none", "give --lengths or --tree")
    return list(dict.fromkeys(cells))


def _prompts(text: str, seed: int) -> list[Any]:
    if not text.isdecimal():
        from ramify.cli.prompts import read_jobs

        return [job.prompt for job in read_jobs(text)]
    if int(text) < 1:
        raise OptionError("at least 1 prompt", text, "raise it")
    from ramify.bench.questions import embedded

    return [question.prompt for question in embedded(int(text), seed)]


def _load(model: str, draft: str, how: dict[str, Any], cells: list[Cell], workload: Workload) -> LLM:
    """The models; every cell's options are tried out before the first token."""
    import ramify

    llm = ramify.load(model, draft=draft, reward=None, **how)
    for cell in cells:
        llm.plan("sample", llm.speculation({**cell.options, **workload.sampling})[0])
    for warning in llm.warnings:
        notes().print(f"warning: {warning}", style="yellow", markup=False)
    return llm


def _measure(llm: LLM, workload: Workload, cells: list[Cell], repeats: int) -> Row:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from ramify.bench.speculative import alternate
    from ramify.bench.speculative_report import summary

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes(), transient=True) as progress:
        bar = progress.add_task("", total=2 + len(cells) * repeats)
        runs, watch = alternate(llm, workload, cells, repeats,
                                lambda cell: progress.update(bar, description=cell.name, advance=1))
        readings = _readings(llm, workload, [result.candidates[0].token_ids for run in runs[cells[0]]
                                             for result in run.results])
    return summary(runs, watch, readings, workload.rows, workload.sampling["max_tokens"])


def _readings(llm: LLM, workload: Workload, answers: list[list[int]]) -> list[Reading]:
    """What both models make of plain decoding's answers, repeat after repeat; nothing where no draft model decides."""
    from ramify.bench.speculative_text import read

    if llm.draft is None or llm.draft.model is None or llm.draft.lookup:
        return []
    _, params = llm.plan("sample", {"n": 1, **workload.sampling})
    prompts = [llm.model.tokenizer.encode_prompt(prompt) for prompt in workload.prompts]
    return [read(llm.model, llm.draft.model, prompts[at % len(prompts)], answer, params)
            for at, answer in enumerate(answers)]


COLUMNS = (("tokens\nper call", "tokens_per_call", ".2f"), ("tokens\nper draft", "acceptance_length", ".2f"),
           ("rejections\nin 100", "rejections_per_100_tokens", ".1f"), ("speed-up", "speedup", ".2f"))


def _show(report: Row) -> None:
    from rich import box
    from rich.table import Table

    console, text, costs = screen(), report["text"], report["costs"]
    if text is not None:
        low, high = text["tv_interval"]
        console.print(f"On {text['tokens']:,} tokens that {report['model']} wrote: at least {100 * text['tv']:.1f} "
                      f"rejections in 100 tokens (95 %: {100 * low:.1f} to {100 * high:.1f}), acceptance "
                      f"{text['acceptance']:.3f}; of coupled drafts {text['coupled_acceptance']:.3f}.")
    for role in ("target", "draft"):
        steps = ", ".join(f"{ids}: {1000 * seconds:.1f}" for ids, seconds in costs[f"{role}_seconds"].items())
        if steps:
            console.print(f"Milliseconds of a {role} step by ids: {steps}")
    table = Table(box=box.SIMPLE_HEAD, title="measured (expected)", title_justify="left")
    table.add_column("drafts", no_wrap=True)
    for head, _, _ in COLUMNS:
        table.add_column(head, justify="right", no_wrap=True)
    for cell in report["cells"]:
        table.add_row(_name(cell), *(_pair(cell[key], cell[f"expected_{key}"], form) for _, key, form in COLUMNS))
    console.print(table)
    for cell in report["cells"]:
        if cell["acceptance_by_position"]:
            chances = " ".join(f"{chance:.2f}" for chance in cell["acceptance_by_position"])
            console.print(f"Acceptance by position, {_name(cell)}: {chances}")
    console.print(f"{report['sentence']}\nprinted by: {report['command']}")


def _name(row: Row) -> str:
    from ramify.bench.speculative import Cell

    return Cell(row["verifier"], row["length"], row["tree"]).name


def _pair(measured: float | None, expected: float | None, form: str) -> str:
    if measured is None:
        return "-"
    return f"{measured:{form}}" + (f" ({expected:{form}})" if expected is not None else "")
