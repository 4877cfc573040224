"""What a model's forward takes on one machine, from a few measured ones: the idealized runtime.

Idealized runtime (arXiv 2305.02440) is the time of a computation on a given machine with nobody else on it: for one
stream T(p, o) = alpha(p) + (o - 1) beta, with alpha and beta fitted to a small grid of prompt sizes p and answer
lengths o. Here its unit is the step, one forward over the rows of many candidates, so that whatever a search does,
reward calls included, is a sum of steps. Four counts of a step explain its seconds, none with a negative price.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ramify.theory.checks import need

Floats = NDArray[np.float64]


@dataclass(slots=True, frozen=True)
class Step:
    """One forward of one model.

    ids: read in it. rows: sequences that they belong to. pairs: of an id and a position that it sees, itself
    included. cached: different positions whose keys and values are read, those that rows share counted once.
    """

    ids: int
    rows: int
    pairs: int
    cached: int


@dataclass(slots=True, frozen=True)
class StepCost:
    """Seconds of a step: `fixed`, which holds the reading of the weights, and so much for each of its counts."""

    fixed: float
    per_id: float
    per_row: float
    per_pair: float
    per_cached: float

    def seconds(self, step: Step) -> float:
        """What a step takes."""
        return float(np.dot(astuple(self), (1, *astuple(step))))


def fit_step_cost(steps: Sequence[Step], seconds: Sequence[float]) -> StepCost:
    """The cost with the least sum of squared relative errors; of equal steps the fastest counts, the others were
    disturbed.

    Counts that the steps do not tell apart share the price in some way; predictions between the steps do not care.

    Raises:
        OutOfRange: no steps, another number of seconds, or seconds that are not above 0.
    """
    need(len(steps) == len(seconds) > 0, "seconds for each of at least one step", f"{len(seconds)} for {len(steps)}",
         "measure some steps")
    need(min(seconds) > 0, "seconds above 0", min(seconds), "measure again")
    took = fastest(zip(steps, seconds, strict=True))
    took_S = np.array(list(took.values()))
    counts_SF = np.array([(1, *astuple(step)) for step in took], dtype=np.float64)
    return StepCost(*nonnegative_least_squares(counts_SF / took_S[:, None], np.ones(len(took_S))).tolist())


def fastest(measured: Iterable[tuple[Step, float]]) -> dict[Step, float]:
    """The least seconds of every different step, in the order in which they were first seen."""
    least: dict[Step, float] = {}
    for step, took in measured:
        least[step] = min(took, least.get(step, took))
    return least


def relative_errors(cost: StepCost, steps: Sequence[Step], seconds: Sequence[float]) -> list[float]:
    """predicted / measured - 1 of every step."""
    return [cost.seconds(step) / took - 1 for step, took in zip(steps, seconds, strict=True)]


def nonnegative_least_squares(a: ArrayLike, b: ArrayLike) -> Floats:
    """The x >= 0 with the least |a x - b|; a: [S, F], b: [S].

    Where it is not 0 it solves the plain problem of those columns alone, and some solution has independent ones: all
    2^F choices of columns are tried, which is exact and quick for a handful.
    """
    a_SF, b_S = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    size_F = np.linalg.norm(a_SF, axis=0)
    scale_F = np.where(size_F > 0, size_F, 1.0)  # counts differ by many orders of magnitude
    best_F, least = np.zeros(len(scale_F)), float(np.linalg.norm(b_S))
    for chosen in product((False, True), repeat=len(scale_F)):
        free_F, x_F = np.array(chosen), np.zeros(len(scale_F))
        x_F[free_F] = np.linalg.lstsq((a_SF / scale_F)[:, free_F], b_S, rcond=None)[0]
        left = float(np.linalg.norm(a_SF @ (x_F / scale_F) - b_S))
        if left < least and (x_F >= 0).all():
            best_F, least = x_F, left
    return best_F / scale_F
