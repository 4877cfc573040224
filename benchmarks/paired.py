"""Counts per problem that several runs of a script gather, and ratios of them with intervals over problems."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import track

Row = dict[str, Any]
Ratio = dict[str, Any]  # value, interval
RESAMPLES = 2000


def gather(path: Path | None, tasks: dict[str, Callable[[], Row]], seconds: float, title: str = "") -> dict[str, Row]:
    """The row of every task.

    A file keeps rows by the tasks' names, one JSON object a line, each written as soon as it is there; tasks that it
    has are not run again. After `seconds` no new one begins: the script ends and says how much is left. With a title
    a bar shows how far it is.
    """
    rows: dict[str, Row] = {}
    if path is not None and path.exists():
        rows = {row.pop("task"): row for row in map(json.loads, path.read_text().splitlines())}
    began = time.monotonic()
    for name, task in track(tasks.items(), title, console=Console(stderr=True), transient=True, disable=not title):
        if name in rows:
            continue
        if time.monotonic() - began > seconds:
            left = sum(name not in rows for name in tasks)
            sys.exit(f"{left} of {len(tasks)} tasks are left: run the same command again")
        rows[name] = task()
        if path is not None:
            with path.open("a") as file:
                file.write(json.dumps({"task": name, **rows[name]}) + "\n")
    return {name: rows[name] for name in tasks}


def ratio(top_P: ArrayLike, bottom_P: ArrayLike, other: tuple[ArrayLike, ArrayLike] | None = None) -> Ratio:
    """Sum over sum, with the 95 % bootstrap interval over problems; with `other`, less that ratio of the same problems.

    Problems are redrawn with everything that was counted on them, so what is hard about a problem cancels.
    """
    pairs = [(np.asarray(top_P, float), np.asarray(bottom_P, float))]
    if other is not None:
        pairs.append((np.asarray(other[0], float), np.asarray(other[1], float)))
    count, rng = len(pairs[0][0]), np.random.default_rng(0)
    picks_SP = np.concatenate([np.arange(count)[None], rng.integers(count, size=(RESAMPLES, count))])
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing over nothing is not a number
        ratios = [top[picks_SP].sum(1) / bottom[picks_SP].sum(1) for top, bottom in pairs]
        value_S = ratios[0] - ratios[1] if other is not None else ratios[0]
    finite = value_S[1:][np.isfinite(value_S[1:])]
    interval = np.quantile(finite, [0.025, 0.975]).tolist() if len(finite) else [float("nan")] * 2
    return {"value": float(value_S[0]), "interval": interval}


def median_ratio(top_P: ArrayLike, bottom_P: ArrayLike) -> Ratio:
    """The median over problems of top / bottom, with its 95 % bootstrap interval: for times, which have outliers."""
    ratio_P, rng = np.asarray(top_P, float) / np.asarray(bottom_P, float), np.random.default_rng(0)
    medians = np.median(ratio_P[rng.integers(len(ratio_P), size=(RESAMPLES, len(ratio_P)))], 1)
    return {"value": float(np.median(ratio_P)), "interval": np.quantile(medians, [0.025, 0.975]).tolist()}


def shown(found: Ratio, digits: int = 2, sign: str = "") -> str:
    """A number with its interval."""
    value, (low, high) = found["value"], found["interval"]
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"
