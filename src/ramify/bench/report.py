"""From rows to one summary: accuracy, reward and compute of every cell, and the comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np

from ramify.bench.compare import Floats, cost_to_reach, share_interval, win_rate
from ramify.bench.run import Cell, Results
from ramify.theory.intervals import bootstrap_interval, wilson_interval
from ramify.trace import Row

BASELINE, REFERENCE = "sample", "best_of_n"
GOALS = ("accuracy", "reward")


def summary(cells: list[Cell], results: Results, count: int, reference: Cell | None) -> dict[str, Any]:
    """The report of finished cells over the first `count` questions.

    `rows`: one per cell but the pool; `gain` is the accuracy beyond plain sampling's, problem by problem.
    `to_reach`: per method the compute at which it reaches the reference's accuracy and mean reward. Tokens,
    FLOPs and seconds are means per problem; intervals are 95 %.
    """
    rows_of = {cell: [results[cell.key][index] for index in range(count)] for cell in cells}
    pool = next((cell for cell in cells if cell.pool), None)
    shown = [cell for cell in cells if not cell.pool]
    table = [_cell_summary(cell, rows_of[cell]) for cell in shown]
    baseline = next((cell for cell in shown if cell.method == BASELINE), None)
    for row, cell in zip(table, shown, strict=True):
        if pool is not None:
            row["head_to_head"] = _head_to_head(rows_of[cell], rows_of[pool])
        if baseline not in (None, cell):
            gains = _column(rows_of[cell], "correct") - _column(rows_of[baseline], "correct")
            row["gain"], row["gain_interval"] = float(gains.mean()), bootstrap_interval(gains)
    if reference is None:
        return {"problems": count, "reference": None, "rows": table, "to_reach": []}
    return {"problems": count, "reference": {"method": reference.method, "n": reference.n}, "rows": table,
            "to_reach": _to_reach(shown, rows_of, reference)}


def _cell_summary(cell: Cell, rows: list[Row]) -> dict[str, Any]:
    correct = sum(row["correct"] for row in rows)
    rewards = None if any(row["reward"] is None for row in rows) else _column(rows, "reward")
    return {
        "method": cell.method, "n": cell.n, "options": cell.options,
        "accuracy": correct / len(rows), "accuracy_interval": wilson_interval(correct, len(rows)),
        "reward": None if rewards is None else float(rewards.mean()),
        "reward_interval": None if rewards is None else bootstrap_interval(rewards),
        "reward_judged_afterwards": any(row["judged"] for row in rows),
        "answer_tokens": float(_column(rows, "answer_tokens").mean()),
        "generated_tokens": float(_column(rows, "generated_tokens").mean()),
        "tokens": _by_role(rows, "tokens"), "flops": _by_role(rows, "flops"),
        "peak_kv_tokens": float(_column(rows, "peak_kv_tokens").mean()),
        "wall_seconds": float(_column(rows, "seconds").mean()),
        # Rows of an earlier version have none.
        "ideal_seconds": None if any(row.get("ideal_seconds") is None for row in rows) else float(
            _column(rows, "ideal_seconds").mean()),
    }


def _by_role(rows: list[Row], what: str) -> dict[str, float]:
    """Mean per problem for each role that worked, and of all together."""
    roles = list(dict.fromkeys(role for row in rows for role in row[what]))
    means = {role: float(np.mean([row[what].get(role, 0) for row in rows])) for role in roles}
    return {**means, "total": sum(means.values())}


def _column(rows: list[Row], what: str) -> Floats:
    """One number per problem; FLOPs and tokens of all roles together."""
    return np.array([sum(row[what].values()) if isinstance(row[what], dict) else float(row[what]) for row in rows])


def _to_reach(cells: list[Cell], rows_of: dict[Cell, list[Row]], reference: Cell) -> list[dict[str, Any]]:
    """Per method and goal: the compute it takes, as it is and as a share of the reference's."""
    found = []
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method]
        entry: dict[str, Any] = {"method": method}
        for goal in GOALS:
            what = "correct" if goal == "accuracy" else "reward"
            if any(row[what] is None for cell in [*own, reference] for row in rows_of[cell]):
                continue
            entry[goal] = _reach(own, rows_of, reference, what)
        found.append(entry)
    return found


def _reach(own: list[Cell], rows_of: dict[Cell, list[Row]], reference: Cell, what: str) -> dict[str, Any] | None:
    """Compute at which a method's curve reaches the reference's mean of `what`, or None."""
    values_NP = np.array([_column(rows_of[cell], what) for cell in own])
    goal_P = _column(rows_of[reference], what)
    flops, tokens = (np.array([_column(rows_of[cell], cost) for cell in own]) for cost in ("flops", "tokens"))
    full, full_tokens = (_column(rows_of[reference], cost) for cost in ("flops", "tokens"))
    reach = cost_to_reach(flops.mean(1), values_NP.mean(1), float(goal_P.mean()))
    in_tokens = cost_to_reach(tokens.mean(1), values_NP.mean(1), float(goal_P.mean()))
    if reach is None or in_tokens is None:
        return None
    return {"flops": reach.cost, "tokens": in_tokens.cost, "at_most": reach.bound,
            "share_of_flops": reach.cost / float(full.mean()),
            "share_of_tokens": in_tokens.cost / float(full_tokens.mean()),
            "share_of_flops_interval": share_interval(flops, values_NP, goal_P, full)}


def _head_to_head(rows: list[Row], pool: list[Row]) -> dict[str, Any]:
    """Win rates against Best-of-n at equal generated tokens, ties half, by reward and by correctness."""
    per_sample = float(np.mean([np.mean([tokens for _, _, tokens in row["pool"]]) for row in pool]))
    matched = float(_column(rows, "generated_tokens").mean()) / per_sample
    size = min(len(row["pool"]) for row in pool)
    found: dict[str, Any] = {"matched_n": matched, "beyond_pool": matched > 1.02 * size}
    for goal, what, place in (("reward", "reward", 0), ("accuracy", "correct", 1)):
        if any(row["reward"] is None for row in rows) and goal == "reward":
            continue
        wins = [win_rate(float(row[what]), [sample[place] for sample in other["pool"]],
                         [sample[0] for sample in other["pool"]], matched)
                for row, other in zip(rows, pool, strict=True)]
        found[goal] = float(np.mean(wins))
        found[f"{goal}_interval"] = bootstrap_interval(wins)
    return found


def findings(report: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences: gain over sampling, compute to reach the reference, head-to-heads."""
    rows, reference = report["rows"], report["reference"]
    if reference is None:
        return []
    goal = next(row for row in rows if row["method"] == reference["method"] and row["n"] == reference["n"])
    name = f"Best-of-{reference['n']}"
    found = [f"{name} solves {goal['accuracy']:.1%} of {report['problems']} problems" + _over_sampling(goal) + "."]
    for entry in report["to_reach"]:
        if entry["method"] not in (BASELINE, REFERENCE):
            own = [row for row in rows if row["method"] == entry["method"]]
            found += [_reaching(entry, goal, name, what, own) for what in GOALS if what in entry]
    for row in rows:
        match = row.get("head_to_head", {})
        if "reward" in match and row["method"] not in (BASELINE, REFERENCE) and row["n"] == reference["n"]:
            low, high = match["reward_interval"]
            found.append(f"{label(row)} at n = {row['n']} wins {match['reward']:.1%} ({low:.1%} to {high:.1%}) of "
                         f"head-to-heads by reward against Best-of-N at equal generated tokens (n = "
                         f"{match['matched_n']:.1f}), and {match['accuracy']:.1%} by correctness.")
    return found


def label(row: dict[str, Any]) -> str:
    """A method's name for people."""
    method: str = row["method"]
    return {"best_of_n": "Best-of-N", "treebon": "TreeBoN"}.get(method, method.replace("_", " ").capitalize())


def _over_sampling(row: dict[str, Any]) -> str:
    if "gain" not in row:
        return ""
    low, high = (100 * edge for edge in row["gain_interval"])
    return f", {100 * row['gain']:.1f} points ({low:.1f} to {high:.1f}) more than one sample"


def _reaching(entry: dict[str, Any], goal: dict[str, Any], name: str, what: str, own: list[dict[str, Any]]) -> str:
    aim = f"{name}'s {'accuracy' if what == 'accuracy' else 'mean reward'} of {_number(what, goal[what])}"
    reach = entry[what]
    if reach is None:
        best = max(own, key=lambda row: row[what])
        return f"{label(entry)} does not reach {aim}: {_number(what, best[what])} at n = {best['n']} is its best."
    low, high = (f"{edge:.2f}" if edge < float("inf") else "never" for edge in reach["share_of_flops_interval"])
    return (f"{label(entry)} reaches {aim} with {'at most ' if reach['at_most'] else ''}{reach['share_of_flops']:.2f} "
            f"({low} to {high}) of its FLOPs.")


def _number(what: str, value: float) -> str:
    return f"{value:.1%}" if what == "accuracy" else f"{value:.3f}"
