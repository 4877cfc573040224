"""Speculation inside a search: where few candidates are left, drafts grow long and target calls are saved.

    python benchmarks/speculation_in_search.py [--problems 23] [--n 16,64] [--rows FILE --seconds 100]

Speculative Rejection and TreeBoN on mini-math's evaluation problems, one search at a time, plain and with two ways to
speculate by turns: the default, coupled draws and a length that measured times decide, whose text must be that of
plain decoding; and block verification of four drafted tokens, whose text has the same law. Counted: target calls of
decoding, those of them in the tail, while few candidates live, and tokens. Speculative Rejection cuts every 8 tokens
here: with its first cut at 24 these short answers would end before there is a tail. The measured length depends on
time, so run it where nothing else runs; `--rows` keeps what was measured, so that the work can be spread.

The picture shows the problem with the longest tail call by call: live candidates, and how many tokens each drafts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, command, in_words, keep, machine
from paired import Row, gather, median_ratio, ratio, shown

import ramify
from ramify.api import LLM
from ramify.bench.questions import Question, embedded
from ramify.bench.run import GeneratedTokens
from ramify.theory.intervals import wilson_interval

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"draft_length": 0}, "coupled, measured": {}, "block, 4": {"draft_length": 4, "verifier": "block"}}
METHODS: dict[str, dict[str, Any]] = {"speculative_rejection": {"chunk": 8}, "treebon": {}}
Step = tuple[int, int, int | None]  # live candidates, those that grow, tokens drafted for each; None: nothing to draft


class Watch:
    """The target's steps in one search, the reading of the prompt left out, and the tokens it drew."""

    def __init__(self, llm: LLM) -> None:
        self.loop, self.steps, self.drawn = llm.engine.loop, list[Step](), GeneratedTokens()
        self._length: int | None = None

    def note(self, event: str, **fields: Any) -> None:
        """Take in one trace event."""
        self.drawn.note(event, **fields)
        if event == "draft":
            self._length = fields["length"]

    def __enter__(self) -> Watch:
        target, forward = self.loop.target, self.loop.target.forward

        def watched(work: Any) -> Any:
            [request] = self.loop.requests
            live = sum(each.state == "live" and not each.children for each in request.sequences)
            self.steps.append((live, len(work), self._length))
            self._length = None
            return forward(work)

        target.forward = watched  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self.loop.target.forward  # the method of its class again
        del self.steps[0]


def search(llm: LLM, question: Question, method: str, n: int, arm: str, seed: int, max_tokens: int) -> Row:
    """One search, and its steps."""
    with Watch(llm) as watch:
        result = llm.generate(question.prompt, method, n=n, seed=seed, max_tokens=max_tokens, trace=watch.note,
                              **METHODS[method], **ARMS[arm])
    usage = result.usage
    return {"right": question.is_right(result.text), "text": result.text,
            "candidates": [[each.id, each.state, *each.token_ids] for each in result.candidates],
            "tokens": watch.drawn.total, "target_tokens": usage.target.tokens,
            "draft_tokens": usage.draft.tokens, "seconds": usage.wall_seconds, "steps": watch.steps}


def tasks(llm: LLM, args: argparse.Namespace) -> dict[str, Callable[[], Row]]:
    """Every search, the arms by turns."""
    return {f"{method}, {n}, {arm}, {index}": partial(search, llm, question, method, n, arm, args.seed + index,
                                                      args.max_tokens)
            for index, question in enumerate(embedded(args.problems, args.seed))
            for method in METHODS for n in args.n for arm in ARMS}


def same(rows: list[Row], plain: list[Row]) -> dict[str, int]:
    """How many answers, and how many candidates of how many, are those of plain decoding."""
    pairs = [(one, other) for row, base in zip(rows, plain, strict=True)
             for one, other in zip(row["candidates"], base["candidates"], strict=False)]
    return {"texts": sum(row["text"] == base["text"] for row, base in zip(rows, plain, strict=True)),
            "candidates": sum(one == other for one, other in pairs),
            "of_candidates": sum(len(row["candidates"]) for row in plain)}


def calls(rows: list[Row], most: float = float("inf")) -> list[int]:
    """Of every search the target calls while at most so many candidates lived."""
    return [sum(live <= most for live, *_ in row["steps"]) for row in rows]


def lengths(rows: list[Row], widest: int) -> dict[int, float]:
    """Mean draft length while so many candidates lived, to the power of two above."""
    seen: dict[int, list[int]] = {}
    for row in rows:
        for live, _, length in row["steps"]:
            if length is not None:
                seen.setdefault(1 << (live - 1).bit_length(), []).append(length)
    return {live: sum(some) / len(some) for live, some in sorted(seen.items(), reverse=True) if live <= widest}


def cell(rows: list[Row], plain: list[Row], tail: int) -> dict[str, Any]:
    """One method at one width in one arm, against plain decoding of the same problems."""

    def seconds(some: list[Row]) -> list[float]:
        return [row["seconds"] for row in some]

    def rate(what: str) -> float:
        return sum(row[what] for row in rows) / len(rows)

    right = sum(row["right"] for row in rows)
    return {"problems": len(rows),
            "accuracy": {"value": right / len(rows), "interval": wilson_interval(right, len(rows))},
            "accuracy_over_plain": ratio([r["right"] for r in rows], [1] * len(rows),
                                         ([r["right"] for r in plain], [1] * len(rows))),
            "same": same(rows, plain), "calls": sum(calls(rows)) / len(rows),
            "calls_of_plain": ratio(calls(rows), calls(plain)), "tail_calls": sum(calls(rows, tail)) / len(rows),
            "tail_calls_of_plain": ratio(calls(rows, tail), calls(plain, tail)),
            "speedup": median_ratio(seconds(plain), seconds(rows)),
            **{what: rate(what) for what in ("seconds", "tokens", "target_tokens", "draft_tokens")}}


def report_of(found: dict[str, Row], args: argparse.Namespace) -> dict[str, Any]:
    """All cells, and the steps of one problem's searches at the greatest width: the one with the longest tail."""

    def rows_of(method: str, n: int, arm: str) -> list[Row]:
        return [found[f"{method}, {n}, {arm}, {index}"] for index in range(args.problems)]

    cells, widest = [], max(args.n)
    for method in METHODS:
        for n in args.n:
            plain = rows_of(method, n, "plain")
            cells += [{"method": method, "n": n, "arm": arm, **cell(rows_of(method, n, arm), plain, args.tail)}
                      for arm in ARMS]
    tails = [sum(sum(calls(rows_of(method, widest, "plain")[index : index + 1], args.tail)) for method in METHODS)
             for index in range(args.problems)]
    shown = tails.index(max(tails))
    drafted = {method: lengths(rows_of(method, widest, "coupled, measured"), widest) for method in METHODS}
    runs = {method: {arm: rows_of(method, widest, arm)[shown]["steps"] for arm in ARMS} for method in METHODS}
    return {"cells": cells, "lengths": drafted, "shown": shown, "runs": runs}


def titled(method: str) -> str:
    """The method's name with its options."""
    options = ", ".join(f"{name} = {value}" for name, value in METHODS[method].items())
    return f"{method} ({options})" if options else method


def picture(report: dict[str, Any], path: Path) -> None:
    """Above, live candidates by call; below, the draft length; one column a method."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from ramify.bench.plot import COLOURS, FAINT, STYLE

    pens = {"plain": (FAINT, "-", 2.2), "coupled, measured": (COLOURS[0], "-", 1.8),
            "block, 4": (COLOURS[1], "--", 1.5)}
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 5.6), layout="constrained", facecolor="white")
        panels = figure.subplots(2, len(METHODS), sharex="col", sharey="row", squeeze=False)
        for (above, below), (method, arms) in zip(panels.T, report["runs"].items(), strict=True):
            for arm, (colour, line, width) in pens.items():
                live, _, drafted = zip(*arms[arm], strict=True)
                numbers = range(1, len(live) + 1)
                above.step(numbers, live, where="mid", color=colour, linestyle=line, linewidth=width,
                           label=f"{arm}: {len(live)} calls")
                above.plot(len(live), live[-1], "o", color=colour, markersize=5)
                if arm != "plain":
                    below.step(numbers, [math.nan if each is None else each for each in drafted], where="mid",
                               color=colour, linestyle=line, linewidth=width)
            above.axhspan(0.7, report["tail"] + 0.5, color="#eeeeee", zorder=0)
            above.set_yscale("log", base=2)
            above.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            above.set_title(titled(method), loc="left", fontweight="bold", fontsize=11)
            above.legend(frameon=False, loc="best")
            below.set_xlabel("target call")
            below.set_ylim(bottom=0)
            below.yaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0, 0].set_ylim(0.7, 1.4 * max(report["n"]))
        panels[0, 0].set_ylabel("live candidates")
        panels[1, 0].set_ylabel("draft length in tokens")
        panels[0, -1].annotate("tail", (1.0, 1.0), (-6, 0), xycoords=("axes fraction", "data"), ha="right", va="center",
                               textcoords="offset points", color=FAINT)
        for axes in panels.flat:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
            axes.set_axisbelow(True)
        figure.savefig(path, dpi=150)


def line(row: dict[str, Any]) -> list[str]:
    """The fields of one row of the table."""
    same, low_high = row["same"], "{:.1%} to {:.1%}".format(*row["accuracy"]["interval"])
    return [str(row["n"]), row["arm"], f"{row['accuracy']['value']:.1%} ({low_high})",
            shown(row["accuracy_over_plain"], 3, "+"), f"{same['texts']} of {row['problems']}",
            f"{same['candidates']:,} of {same['of_candidates']:,}", f"{row['calls']:.1f}", shown(row["calls_of_plain"]),
            f"{row['tail_calls']:.1f}", shown(row["tail_calls_of_plain"]), shown(row["speedup"]),
            *(f"{row[what]:.0f}" for what in ("tokens", "target_tokens", "draft_tokens"))]


def table(report: dict[str, Any], hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["# Speculation inside a search", "",
             f"{report['draft']} drafting for {report['model']} on {report['problems']} evaluation problems, one "
             "search at a time. Calls: target calls of decoding; in the tail while at most "
             f"{report['tail']} candidates live. Shares are of plain decoding's, 95 % intervals over problems, paired. "
             "Same: answers, and candidates, that are those of plain decoding. Speed-up: the median of plain seconds "
             "over these. Printed by "
             f"`{command()}` on {in_words(hardware)}.", ""]
    heads = ["n", "speculation", "accuracy", "less plain's", "same answers", "same candidates", "calls", "their share",
             "calls in the tail", "their share", "speed-up", "tokens drawn", "read by the target", "by the draft"]
    for method in METHODS:
        lines += [f"## {titled(method)}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [f"| {' | '.join(line(row))} |" for row in report["cells"] if row["method"] == method]
        found = ", ".join(f"{live}: {length:.1f}" for live, length in report["lengths"][method].items())
        lines += ["", f"Mean measured draft length at n = {max(report['n'])}, by live candidates: {found}.", ""]
    lines += ["![steps](speculation_in_search.png)", "",
              f"Problem {report['shown']}, n = {max(report['n'])}. Where a line of lengths is broken nothing was to be "
              "drafted: every candidate lacked one token to its cut or its end.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, draw, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-math")
    parser.add_argument("--draft", default="mini-math-draft")
    parser.add_argument("--problems", type=int, default=23)
    parser.add_argument("--n", type=lambda text: [int(part) for part in text.split(",")], default=[16, 64])
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--tail", type=int, default=4, help="candidates that live in what is called the tail, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="a file that keeps what was measured, to go on another time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing new after so long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    hardware, llm = machine(), ramify.load(args.model, draft=args.draft, dedupe=False)
    llm.engine.loop.target.prefixes = None  # every search reads its prompt
    for method in METHODS:  # warm up, and let the measured length learn
        for arm in ARMS:
            search(llm, embedded(1, args.seed + 1)[0], method, max(args.n), arm, 0, args.max_tokens)
    found = gather(args.rows, tasks(llm, args), args.seconds)
    report = {"command": command(), "machine": hardware, "model": args.model, "draft": args.draft, "n": args.n,
              "problems": args.problems, "tail": args.tail, **report_of(found, args)}
    keep("speculation_in_search", report, table(report, hardware), args.out)
    picture(report, args.out / "speculation_in_search.png")


if __name__ == "__main__":
    main()
