"""`ramify bench`: compare methods by what they win and what they cost."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramify.cli.bench_engine import engine
from ramify.cli.bench_speculative import speculative
from ramify.cli.options import Device, Dtype, Executor, KVDtype, method_named, parse_settings
from ramify.cli.output import notes, say_json, screen
from ramify.errors import DataError, OptionError
from ramify.trace import Row, RowWriter, read_rows
from ramify.types import SamplingParams

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.bench.questions import Question
    from ramify.bench.run import Cell, Results

app = typer.Typer(name="bench", no_args_is_help=True, help="Measure methods: accuracy, reward and compute.")

app.command()(speculative)
app.command()(engine)

METHODS = "sample,self_consistency,best_of_n,speculative_rejection,treebon"


@app.callback()
def root() -> None:
    """Measure methods: accuracy, reward and compute."""


@app.command()
def search(
    methods: Annotated[str, typer.Option(help="Names, separated by commas; default: all five.",
                                         show_default=False)] = METHODS,
    n: Annotated[str, typer.Option("--n", "-n", help="Widths of each method; sample runs at 1.")] = "4,16,64",
    problems: Annotated[str, typer.Option(help="How many, or a JSONL file (prompt, answer).")] = "200",
    seed: Annotated[int, typer.Option(min=0, help="Of the problems and every draw.")] = 0,
    model: Annotated[str, typer.Option(help="Folder, hub id or embedded model.")] = "mini-math",
    reward: Annotated[str, typer.Option(help="Model, implicit:POLICY,REFERENCE or none.")] = "auto",
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 96,
    temperature: Annotated[float, typer.Option(help="1 samples the model as it is.")] = 1.0,
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="[METHOD.]KEY=VALUE", help="More options; METHOD.n=8,32 sets its widths.")] = None,
    reference: Annotated[int | None, typer.Option(help="best_of_n width to reach; default: the largest.")] = None,
    pool: Annotated[int | None, typer.Option(
        help="Samples for head-to-heads; default: the reference's n; 0: none.")] = None,
    dtype: Dtype = "float32",
    executor: Executor = "auto",
    kv_dtype: KVDtype = None,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="Keep every answer there; a next run resumes.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write PLOT.png and PLOT.html.")] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Compute once what candidates say alike, as generate does; "
                                         "else each pays for all of its tokens, as papers count.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Compare searches: accuracy, reward and compute on problems with known answers.

    Per method and width: accuracy and mean reward with 95 % intervals, tokens and FLOPs by model; then the
    compute at which each method reaches Best-of-N's largest width, and head-to-heads at equal tokens.
    """
    if plot is not None:
        from ramify.bench.plot import need_matplotlib

        need_matplotlib()  # before the work, not after it
    sampling, cells = _plan(methods, n, settings or [], max_tokens, temperature)
    goal = _reference(cells, reference)
    cells += _pool(goal, pool)
    setup = {"bench": "search", "model": model, "reward": reward, "dtype": dtype, "executor": executor,
             "kv_dtype": kv_dtype, "device": device, "dedupe": dedupe, "seed": seed, "sampling": sampling,
             "problems": "embedded" if problems.isdecimal() else problems}
    questions = _questions(problems, seed)
    results = _run(_load(setup), setup, cells, questions, out)
    _report(setup, cells, results, len(questions), goal, plot, as_json)


def _plan(methods: str, n: str, settings: list[str], max_tokens: int, temperature: float,
          ) -> tuple[dict[str, Any], list[Cell]]:
    """The sampling options that all share, and a cell for every method and width."""
    from ramify.bench.run import Cell

    names = [method_named(name.strip()).__name__ for name in methods.split(",")]
    shared = [text for text in settings if "." not in text.partition("=")[0]]
    if stray := [text for text in settings if text not in shared and text.split(".")[0].replace("-", "_") not in names]:
        raise OptionError(f"a method among {', '.join(names)} before the dot", repr(stray[0]), "rename or remove it")
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    cells = []
    for name in dict.fromkeys(names):
        own = [text.partition(".")[2] for text in settings if text not in shared
               and text.split(".")[0].replace("-", "_") == name]
        widths = [text.partition("=")[2] for text in own if text.partition("=")[0] == "n"]
        options = parse_settings([*shared, *(text for text in own if text.partition("=")[0] != "n")],
                                 method_named(name), ("n", *sampling))
        # The answer of plain sampling does not depend on how many others are drawn.
        default = "1" if name == "sample" else n
        cells += [Cell(name, width, options) for width in _widths(widths[-1] if widths else default)]
    SamplingParams(**sampling)  # or raise
    return sampling, cells


def _widths(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas, ascending and different."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise OptionError("numbers of candidates of at least 1", repr(text), "write them as 4,16,64")
    return sorted({int(part) for part in parts})


def _reference(cells: list[Cell], n: int | None) -> Cell | None:
    """The Best-of-N cell that the others are measured by; none if it is not run."""
    from ramify.bench.report import REFERENCE

    widths = {cell.n: cell for cell in cells if cell.method == REFERENCE}
    if n is not None and n not in widths:
        got = f"{REFERENCE} at {', '.join(map(str, widths))}" if widths else f"no {REFERENCE}"
        raise OptionError(f"{REFERENCE} at {n}, which --reference names", got, "add it to --methods and --n")
    return widths.get(max(widths, default=0) if n is None else n)


def _pool(goal: Cell | None, size: int | None) -> list[Cell]:
    """The samples that head-to-heads are estimated from."""
    from ramify.bench.run import Cell

    if goal is None and size:
        raise OptionError("best_of_n among the methods, for --pool", "none", "add it or leave out --pool")
    if goal is None or size == 0:
        return []
    return [Cell(goal.method, size or goal.n, goal.options, pool=True)]


def _questions(problems: str, seed: int) -> list[Question]:
    from ramify.bench import questions

    if not problems.isdecimal():
        return questions.from_file(problems)
    if int(problems) < 1:
        raise OptionError("at least 1 problem", problems, "raise it")
    return questions.embedded(int(problems), seed)


def _load(setup: Row) -> LLM:
    """The model and its reward, whose name goes into the setup: which one is "auto" may change."""
    import ramify

    llm = ramify.load(setup["model"], reward=None if setup["reward"] == "none" else setup["reward"],
                      **{name: setup[name] for name in ("dtype", "executor", "kv_dtype", "device", "dedupe")})
    if llm.reward is not None:
        setup["reward"] = llm.reward.name
    # Every method pays for its own prompts; companion models follow the target in this.
    llm.engine.loop.target.prefixes = None
    return llm


def _run(llm: LLM, setup: Row, cells: list[Cell], questions: list[Question], out: Path | None) -> Results:
    """Every row that the report needs: from the file what is there, the rest measured now and kept there."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from ramify.bench.costs import IdealClock, measure_costs
    from ramify.bench.run import measure
    from ramify.bench.watch import Watch

    results = _read(out, setup)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    before = sum(index < len(questions) for cell in cells for index in results.get(cell.key, {}))
    with ExitStack() as opened:
        sink = opened.enter_context(RowWriter(out, append=True)) if out else None
        if sink and not results:
            sink.write([setup])
        ideal = None
        if before < len(cells) * len(questions):
            notes().print("measuring what steps cost on this machine ...")
            ideal = IdealClock(measure_costs(llm, llm.reward), opened.enter_context(Watch(llm.engine)))
        progress = opened.enter_context(Progress(*columns, console=notes(), transient=True))
        bar = progress.add_task("", total=len(cells) * len(questions), completed=before)

        def keep(row: Row) -> None:
            if sink:
                sink.write([row])
            progress.update(bar, description=row["cell"], advance=0 if row["judged"] else 1)

        try:
            measure(llm, cells, questions, seed=setup["seed"], sampling=setup["sampling"], done=results, write=keep,
                    ideal=ideal)
        except KeyboardInterrupt:
            progress.stop()
            kept = f"the answers so far are in {out}, and the same command goes on from there" if out else \
                "name an --out file and a next run goes on from there"
            notes().print(f"interrupted: {kept}")
            raise typer.Exit(130) from None
    return results


def _read(out: Path | None, setup: Row) -> Results:
    """The rows of an earlier run under the same setup, the latest of each question."""
    results: Results = {}
    if out is None or not out.is_file():
        return results
    for number, row in read_rows(out, torn=True):
        if "cell" in row:
            results.setdefault(row["cell"], {})[row["question"]] = row
        elif row != setup:
            changed = [name for name in setup if row.get(name) != setup[name]]
            raise DataError(f"results of the same setup in {out}", f"line {number} with another {', '.join(changed)}",
                            "name another --out file")
    return results


def _report(setup: Row, cells: list[Cell], results: Results, count: int, goal: Cell | None, plot: Path | None,
            as_json: bool) -> None:
    from ramify.bench.report import findings, summary
    from ramify.bench.table import tables

    report = {**setup, "command": shlex.join(["ramify", *sys.argv[1:]]), **summary(cells, results, count, goal)}
    report["findings"] = findings(report)
    if as_json:
        say_json(report)
    else:
        console = screen()
        for part in tables(report):
            console.print(part)
    if plot is not None:
        from ramify.bench.page import page
        from ramify.bench.plot import draw, write

        png, svg = draw(report)
        write(plot.with_suffix(".png"), png)
        write(plot.with_suffix(".html"), page(report, svg).encode())
        notes().print(f"wrote {plot.with_suffix('.png')} and {plot.with_suffix('.html')}")
