"""From runs to one summary: what was measured beside what theory expects of it, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING

from ramify.bench.speculative import MEASURED, PLAIN, Cell, Run, Stopwatch
from ramify.bench.speculative_text import Reading, expected_speedup, mean_over_tokens, tokens_per_call
from ramify.theory import speculative_cost as theory

if TYPE_CHECKING:
    from ramify.trace import Row

CHAINS = ("token", "block", "coupled", "greedy", "recursive", "traversal", "k_sequential")  # that theory speaks of


def summary(runs: Mapping[Cell, list[Run]], watch: Stopwatch, readings: list[Reading], rows: int,
            max_tokens: int) -> Row:
    """The report. Lists hold one entry per position, per run or per size of a step; seconds are medians, and a
    speed-up is the median over turns of plain over drafted seconds per token.

    text: what both models say of text the target wrote, None for drafts that are looked up. costs: seconds of steps.
    cells: per way to draft, measured and expected. best: the fixed length or tree with the greatest expected
    speed-up, or measured one where theory is silent; None where nothing was drafted.
    """
    text = _text(readings) if readings else None
    costs = _costs(watch, rows)
    pace = _pace(runs[PLAIN])
    cells = [_cell(cell, some, runs[PLAIN], text, costs, readings, rows, max_tokens) for cell, some in runs.items()
             if cell is not PLAIN]
    plain = {"tokens": sum(run.tokens for run in runs[PLAIN]), "seconds_per_token": pace,
             "seconds": [run.seconds for run in runs[PLAIN]]}
    report: Row = {"text": text, "plain": plain, "costs": costs, "cells": cells, "best": _best(cells)}
    report["sentence"] = sentence(report, rows)
    return report


def _text(readings: list[Reading]) -> Row:
    tv, interval = mean_over_tokens([reading.tv_L for reading in readings])
    coupled, _ = mean_over_tokens([reading.coupled_L for reading in readings])
    return {"texts": len(readings), "tokens": sum(len(reading.tv_L) for reading in readings), "tv": tv,
            "tv_interval": interval, "acceptance": 1 - tv, "coupled_acceptance": coupled}


def _costs(watch: Stopwatch, rows: int) -> Row:
    target, draft = watch.medians("target"), watch.medians("draft")
    step = draft.get(rows)
    plain = target.get(rows)
    return {"target_seconds": target, "draft_seconds": draft, "draft_step": step, "target_step": plain,
            "draft_over_target": step / plain if step is not None and plain is not None else None}


def _pace(runs: list[Run]) -> float:
    """Median seconds per token."""
    return median(run.seconds / run.tokens for run in runs)


def _cell(cell: Cell, runs: list[Run], plain: list[Run], text: Row | None, costs: Row, readings: list[Reading],
          rows: int, max_tokens: int) -> Row:
    blocks = [result.speculative for run in runs for result in run.results]
    counts = {name: sum(block.get(name, 0) for block in blocks)
              for name in ("num_draft_tokens", "num_accepted_draft_tokens", "num_rejections", "num_verifications")}
    tokens, calls, verified = sum(run.tokens for run in runs), sum(run.calls for run in runs), [
        pair for run in runs for pair in run.verified]
    committed = sum(block["mean_acceptance_length"] * block["num_verifications"] for block in blocks
                    if block.get("num_verifications"))
    row: Row = {
        "verifier": cell.verifier, "length": cell.length, "tree": cell.tree, "tokens": tokens, "target_calls": calls,
        **counts, "tokens_per_call": tokens / calls,
        "acceptance_length": committed / len(verified) if verified else None,
        "acceptance_by_position": None if cell.tree else by_position(verified),
        "mean_drafted": sum(drafted for drafted, _ in verified) / len(verified) if verified else 0.0,
        "rejections_per_100_tokens": 100 * counts["num_rejections"] / tokens,
        "seconds": [run.seconds for run in runs], "seconds_per_token": _pace(runs),
        # A machine gets slower and faster as others use it: each run is held against the plain one of its own turn.
        "speedup": median(_pace([other]) / _pace([run]) for other, run in zip(plain, runs, strict=True))}
    return row | _expected(cell, text, costs, readings, rows, max_tokens)


def by_position(verified: list[tuple[int, int]]) -> list[float]:
    """How often the draft of each position stood where it was drafted and those before it stood."""
    rates: list[float] = []
    while tested := [accepted > len(rates) for drafted, accepted in verified
                     if drafted > len(rates) and accepted >= len(rates)]:
        rates.append(sum(tested) / len(tested))
    return rates


def _expected(cell: Cell, text: Row | None, costs: Row, readings: list[Reading], rows: int, max_tokens: int) -> Row:
    """What theory says of a chain of fixed length; nothing of others."""
    names = ("expected_acceptance_length", "expected_tokens_per_call", "expected_rejections_per_100_tokens",
             "expected_speedup")
    if text is None or not cell.length or cell.verifier not in CHAINS:
        return dict.fromkeys(names)
    acceptance = text["coupled_acceptance" if cell.verifier in ("coupled", "greedy") else "acceptance"]
    seconds, faster = costs["target_seconds"], None
    reachable = seconds and min(seconds) <= rows and rows * (1 + cell.length) <= max(seconds)
    if costs["draft_step"] is not None and reachable:
        faster = expected_speedup(readings, cell.verifier, cell.length, max_tokens, rows, costs["draft_step"], seconds)
    return dict(zip(names, (
        theory.expected_tokens(acceptance, cell.length),
        tokens_per_call(readings, cell.verifier, cell.length, max_tokens),
        100 * theory.rejections_per_token(acceptance, cell.length), faster), strict=True))


def _best(cells: list[Row]) -> Row | None:
    fixed = [cell for cell in cells if cell["length"] or cell["tree"]] or cells
    known = [cell for cell in fixed if cell["expected_speedup"] is not None]
    if known:
        return max(known, key=lambda cell: cell["expected_speedup"])
    return max(fixed, key=lambda cell: cell["speedup"], default=None)


def sentence(report: Row, rows: int) -> str:
    """The report in a line."""
    best, text, ratio = report["best"], report["text"], report["costs"]["draft_over_target"]
    parts = [] if text is None else [f"acceptance {text['acceptance']:.2f}"]
    if ratio is not None:
        parts.append(f"a draft step costs {ratio:.2f} of a target step at {rows} row{'s' if rows > 1 else ''}")
    if best is None:
        return ", ".join([*parts, "nothing was drafted"])
    what = f"tree {best['tree']}" if best["tree"] else f"draft {best['length'] or MEASURED}"
    expected = best["expected_speedup"]
    if max(best["speedup"], expected or 0.0) <= 1:
        what = f"do not draft: even {what}"
    hoped = "" if expected is None else f"expected {expected:.1f}x, "
    found = f"{what}, {hoped}measured {best['speedup']:.1f}x"
    return f"{', '.join(parts)}: {found}" if parts else found
