"""Searches end to end with their reward model, beside the same searches written with transformers.

    python benchmarks/search_speed.py [--problems 12] [--n 64] [--rows FILE --seconds 90] [--json]

Best-of-N, TreeBoN and Speculative Rejection on mini-math's evaluation problems at temperature 1, one search at a time;
sides and methods take turns on every problem, and the side that begins changes. A search's speed is the answer tokens
it drew, those of dropped candidates included and shared beginnings counted once, over its seconds from the question to
the chosen answer. Both sides follow the same schedule with random numbers of their own, so their tokens have the same
law and not the same values. Nothing is remembered between searches. `--rows` keeps what was measured, so that the work
can be spread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from common import RESULTS, command, in_words, keep, machine
from paired import Row, gather, median_ratio

from ramify.api import LLM, load_reward
from ramify.bench.machine import measure_limits
from ramify.bench.questions import Question, embedded
from ramify.bench.watch import Watch
from ramify.engine import Engine
from ramify.models import load_model
from ramify.types import Result

METHODS = {"best_of_n": "Best-of-N", "treebon": "TreeBoN", "speculative_rejection": "Speculative Rejection"}
SIDES = ("ramify", "transformers")
WANTED = 5.0  # times as many tokens per second


class Side(Protocol):
    """Who searches."""

    def search(self, method: str, question: Question, n: int, seed: int) -> Row:
        """One search: its seconds, tokens, reward, and whether the answer is right."""
        ...


class Ours:
    """The engine. read and judged: positions that target and reward model computed."""

    def __init__(self, model: str, reward: str, max_tokens: int, executor: str, dedupe: bool = True) -> None:
        self.max_tokens = max_tokens
        self.llm = LLM(Engine(load_model(model, executor=executor), prefix_cache=False, dedupe=dedupe),
                       load_reward(reward, executor=executor))

    def search(self, method: str, question: Question, n: int, seed: int) -> Row:
        """See `Side`."""
        began, engine = time.perf_counter(), self.llm.engine
        search, params = self.llm.plan(method, {"n": n, "max_tokens": self.max_tokens})
        request = engine.submit(question.prompt, search, params, method=method, seed=seed)
        while not request.finished:
            engine.step()
        seconds, result = time.perf_counter() - began, request.outcome
        assert isinstance(result, Result)
        # A fork begins with its parent's tokens, which grows no more.
        written = sum(len(at.tokens) - len(at.parent.tokens) for at in request.sequences if at.parent is not None)
        return {"seconds": seconds, "written": written, "read": result.usage.target.tokens,
                "judged": result.usage.reward.tokens, "reward": result.reward,
                "right": question.is_right(result.text), "flops": result.usage.flops}


class Transformers:
    """`search_in_transformers`. read and judged: positions computed, padding included."""

    def __init__(self, model: str, reward: str, max_tokens: int) -> None:
        from search_in_transformers import Searches

        self.searches = Searches(load_model(model).path, load_model(reward, head=True).path, max_tokens)

    def search(self, method: str, question: Question, n: int, seed: int) -> Row:
        """See `Side`."""
        from search_in_transformers import Count

        torch.manual_seed(seed)
        searches, searches.count, began = self.searches, Count(), time.perf_counter()
        answer = getattr(searches, method)(question.prompt, n)
        text = searches.tokenizer.decode(answer.ids, skip_special_tokens=True)
        seconds, count = time.perf_counter() - began, searches.count
        return {"seconds": seconds, "written": count.written, "read": count.read, "judged": count.judged,
                "reward": answer.reward, "right": question.is_right(text)}


def where(ours: Ours, questions: list[Question], n: int, multiply: float) -> Row:
    """Where the seconds of our searches go, by method. bound: of all arithmetic at `multiply` operations per second."""
    model, found = ours.llm.model, {}
    for method in METHODS:
        sums = {"target": 0.0, "reward": 0.0, "outside": 0.0, "gflop": 0.0, "bound": 0.0}
        for at, question in enumerate(questions):
            with Watch(ours.llm.engine) as watch:
                row = ours.search(method, question, n, at)
            inside = 0.0
            for forward in (forward for turn in watch.turns for forward in turn.forwards):
                sums["target" if forward.model is model else "reward"] += forward.seconds
                inside += forward.seconds
            sums["outside"] += sum(turn.seconds for turn in watch.turns) - inside
            sums["gflop"] += row["flops"] / 1e9
            sums["bound"] += row["flops"] / multiply
        found[method] = {key: value / len(questions) for key, value in sums.items()}
    return found


def one_problem(sides: dict[str, Side], question: Question, n: int, at: int) -> Row:
    """Every method on both sides, the first of them by turns."""
    names = list(sides)[:: 1 if at % 2 else -1]
    return {method: {name: sides[name].search(method, question, n, at) for name in names} for method in METHODS}


def summary(method: str, problems: list[Row]) -> Row:
    """One method over all problems. Ratios are of tokens per second, ours over theirs, problem by problem."""
    keys = problems[0][method]["transformers"]
    of = {side: {key: np.array([row[method][side][key] for row in problems], float) for key in keys} for side in SIDES}
    speeds = {side: of[side]["written"] / of[side]["seconds"] for side in SIDES}
    ratios = speeds["ramify"] / speeds["transformers"]
    return {"method": method, "ratio": median_ratio(speeds["ramify"], speeds["transformers"]),
            "lowest": ratios.min(), "highest": ratios.max(),
            "time_ratio": median_ratio(of["transformers"]["seconds"], of["ramify"]["seconds"])} | {
        side: {"tokens_per_second": float(np.median(speeds[side])), "seconds": float(np.median(of[side]["seconds"])),
               **{key: float(of[side][key].mean()) for key in ("written", "read", "judged", "reward", "right")}}
        for side in SIDES}


def table(report: Row) -> str:
    """The report in Markdown."""
    lines = ["# Searches beside the same searches in transformers", "", in_words(report["machine"]) + ".", "",
             f"{report['model']} with {report['reward']}, n = {report['n']}, answers of at most "
             f"{report['max_tokens']} tokens, temperature 1; our executor {report['executor']}, transformers in "
             f"float32; {report['problems']} evaluation problems, one search at a time, in turns. Printed by "
             f"`{report['command']}`.", "",
             "| method | tokens/s ratio (95 %) | lowest to highest | seconds ratio | tokens/s | seconds a problem | "
             "tokens drawn | target read | reward model read | mean reward |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for row in report["rows"]:
        pairs = [" / ".join(f"{row[side][key]:{form}}" for side in SIDES) for key, form in (
            ("tokens_per_second", ".0f"), ("seconds", ".3f"), ("written", ".0f"), ("read", ".0f"), ("judged", ".0f"),
            ("reward", ".2f"))]
        low, high = row["ratio"]["interval"]
        lines.append(f"| {METHODS[row['method']]} | **{row['ratio']['value']:.2f}** ({low:.2f} to {high:.2f}) | "
                     f"{row['lowest']:.2f} to {row['highest']:.2f} | {row['time_ratio']['value']:.2f} | "
                     f"{' | '.join(pairs)} |")
    lines += ["", "| method, ours | ms in the target's forwards | in the reward model's | outside of both | GFLOP | "
              "their ms at the machine's limit |", "|---|---|---|---|---|---|"]
    for method, spent in report["where"].items():
        cells = [f"{1e3 * spent[key]:.0f}" for key in ("target", "reward", "outside")]
        lines.append(f"| {METHODS[method]} | {' | '.join(cells)} | {spent['gflop']:.1f} | {1e3 * spent['bound']:.0f} |")
    short = [METHODS[row["method"]] for row in report["rows"] if row["ratio"]["value"] < WANTED]
    verdict = f"below the {WANTED:g} times that are wanted: {', '.join(short)}" if short else (
        f"all reach the {WANTED:g} times that are wanted")
    ours = ("Our side computes every candidate by itself (`--apart`)" if report["apart"] else
            "Our side computes once what several candidates have said alike, which changes no answer")
    said = (f"{ours}. Of tokens per second {verdict}. Ratios are medians over problems; pairs are Ramify / "
            "transformers, medians of speeds and times, means of counts. Read: positions that a model computed, for "
            "transformers with padding; it reads the prompt for every candidate, and a whole text for every reward. "
            f"The limit is {report['multiply'] / 1e9:.0f} GFLOP/s, float32 matrices.")
    return "\n".join([*lines, "", said, ""])


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-math")
    parser.add_argument("--reward", default="mini-math-reward")
    parser.add_argument("--problems", type=int, default=12)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--executor", default="auto", help="of our side; transformers stays in float32")
    parser.add_argument("--apart", action="store_true", help="our side computes every candidate by itself")
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=Path, help="a file that keeps what was measured, to go on another time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new problem after so long")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--name", default="search_speed", help="of the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hardware, models = machine(), (args.model, args.reward, args.max_tokens)
    ours, multiply = Ours(*models, args.executor, not args.apart), measure_limits().multiply
    sides: dict[str, Side] = {"ramify": ours, "transformers": Transformers(*models)}
    questions = embedded(args.problems + 1, args.seed)
    one_problem(sides, questions.pop(), args.n, 0)  # warm up
    tasks: dict[str, Callable[[], Row]] = {
        f"problem {at}": partial(one_problem, sides, question, args.n, at) for at, question in enumerate(questions)}
    found = gather(args.rows, tasks, args.seconds, "searching")
    report = {"command": command(), "machine": hardware, **{
        name: getattr(args, name) for name in ("model", "reward", "n", "max_tokens", "problems", "seed", "executor",
                                               "apart")},
        "rows": [summary(method, list(found.values())) for method in METHODS], "multiply": multiply,
        "where": where(ours, questions[:4], args.n, multiply)}
    keep(args.name, report, table(report), args.out, args.json)


if __name__ == "__main__":
    main()
