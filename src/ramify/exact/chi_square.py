"""Goodness of fit between counts and a stated law, for models too large to enumerate."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch


def chi_square(counts: Mapping[Hashable, int], law: Mapping[Hashable, float], least: float = 5.0) -> float:
    """The p-value of Pearson's test that `counts` were drawn from `law`.

    Outcomes expected fewer than `least` times are pooled. An outcome that the law gives no mass has p-value 0.
    """
    total = sum(counts.values())
    if any(law.get(outcome, 0.0) == 0.0 for outcome, count in counts.items() if count):
        return 0.0
    cells: list[tuple[float, float]] = []
    pooled_seen = pooled_expected = 0.0
    for outcome, probability in law.items():
        seen, expected = counts.get(outcome, 0), total * probability
        if expected < least:
            pooled_seen, pooled_expected = pooled_seen + seen, pooled_expected + expected
        else:
            cells.append((seen, expected))
    if pooled_expected > 0:
        cells.append((pooled_seen, pooled_expected))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    if len(cells) < 2:
        return 1.0
    half = torch.tensor([len(cells) - 1, statistic], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(half[0], half[1]))
