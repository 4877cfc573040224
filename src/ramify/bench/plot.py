"""The summary as a picture: accuracy and reward against compute, one line per method."""

from __future__ import annotations

import io
import re
import textwrap
from pathlib import Path
from typing import Any

from ramify.bench.report import BASELINE, GOALS, REFERENCE, label
from ramify.errors import OptionError, StorageError

# Okabe and Ito's colours, which people with colour-blindness can tell apart; shapes tell them apart in grey too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#B8860B", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#222222", "#999999"
STYLE: Any = {"font.family": "sans-serif", "font.size": 10, "axes.edgecolor": FAINT, "text.color": INK,
         "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "ramify"}
ROOM = 0.3  # of the compute axis, kept free at its right end for the methods' names
LINE = 0.062  # height of a name, as a share of the panel


def need_matplotlib() -> None:
    """Raise `OptionError` naming the extra if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError("matplotlib for --plot", "an installation without it", "pip install 'ramify[viz]'") from error


def draw(report: dict[str, Any]) -> tuple[bytes, str]:
    """The picture as PNG bytes and as an SVG element that stands alone in a page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    goals = [goal for goal in GOALS if all(row[goal] is not None for row in report["rows"])]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.6 * len(goals), 5.4), layout="constrained", facecolor="white")
        for axes, goal in zip(figure.subplots(1, len(goals), squeeze=False)[0], goals, strict=True):
            _panel(axes, report, goal)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=150)
        figure.savefig(svg, format="svg")
    text = svg.getvalue()
    return png.getvalue(), re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def write(path: Path, data: bytes) -> None:
    """Raises `StorageError` when the file cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"room and permission to write {path}", error.strerror or str(error),
                           "name another file") from error


def _panel(axes: Any, report: dict[str, Any], goal: str) -> None:
    """One goal against FLOPs: points with 95 % intervals, widths beside them, names at the ends."""
    scale = 100.0 if goal == "accuracy" else 1.0
    rows = report["rows"]
    names = list(dict.fromkeys(map(label, rows)))
    flops = [row["flops"]["total"] for row in rows]
    edges = [edge * scale for row in rows for edge in row[f"{goal}_interval"]]
    axes.set_xscale("log")
    left, right = min(flops) / 1.35, max(flops) * 1.1
    axes.set_xlim(left, right * (right / left) ** (ROOM / (1 - ROOM)))
    pad = 0.06 * (max(edges) - min(edges)) or 1.0
    axes.set_ylim(min(edges) - pad, max(edges) + pad)
    ends = []
    for name, colour, mark in zip(names, COLOURS * len(names), MARKS * len(names), strict=False):
        own = [row for row in rows if label(row) == name]
        x, y = [row["flops"]["total"] for row in own], [row[goal] * scale for row in own]
        low, high = zip(*((edge * scale for edge in row[f"{goal}_interval"]) for row in own), strict=True)
        axes.vlines(x, low, high, color=colour, linewidth=1, alpha=0.45)
        axes.plot(x, y, color=colour, marker=mark, markersize=6, linewidth=1.8)
        for row, at, value in zip(own, x, y, strict=True):
            axes.annotate(str(row["n"]), (at, value), (-4, 4), textcoords="offset points", ha="right", va="bottom",
                          fontsize=8, color=colour)
        ends.append((name, colour, x[-1], y[-1]))
    _names(axes, ends)
    _goal_line(axes, report, goal, scale)
    axes.set_title("\n".join(textwrap.wrap(headline(report, goal), 62)), loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("FLOPs per problem, all models (log scale); small numbers are n")
    axes.set_ylabel("correct answers, %" if goal == "accuracy" else "mean reward of the answer")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)


def _names(axes: Any, ends: list[tuple[str, str, float, float]]) -> None:
    """Each method's name right of its last point, moved up or down where two would overlap."""
    low, high = axes.get_ylim()
    wanted = [(y - low) / (high - low) for _, _, _, y in ends]
    for (name, colour, x, _), place in zip(ends, spread(wanted, LINE), strict=True):
        axes.annotate(name, (x, low + place * (high - low)), (9, 0), textcoords="offset points", va="center",
                      color=colour, fontweight="bold", fontsize=9.5,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})


def spread(wanted: list[float], gap: float) -> list[float]:
    """Positions near the wanted ones, in the same order, at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    groups: list[list[int]] = []
    for at in order:
        groups.append([at])
        while len(groups) > 1 and _start(groups[-1], wanted, gap) < _end(groups[-2], wanted, gap):
            last = groups.pop()
            groups[-1] += last
    placed = {at: _start(group, wanted, gap) + gap * turn for group in groups for turn, at in enumerate(group)}
    return [placed[at] for at in range(len(wanted))]


def _start(group: list[int], wanted: list[float], gap: float) -> float:
    """Lowest position of names stacked around the mean of where they belong."""
    return sum(wanted[at] for at in group) / len(group) - gap * (len(group) - 1) / 2


def _end(group: list[int], wanted: list[float], gap: float) -> float:
    return _start(group, wanted, gap) + gap * len(group)


def _goal_line(axes: Any, report: dict[str, Any], goal: str, scale: float) -> None:
    """The reference's level, across the panel."""
    if report["reference"] is None:
        return
    row = reference_row(report)
    axes.axhline(row[goal] * scale, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.annotate(f"Best-of-{row['n']}", (0.01, row[goal] * scale), (0, 3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", color="#666666", fontsize=8.5)


def reference_row(report: dict[str, Any]) -> dict[str, Any]:
    """The cell that the others are measured by."""
    wanted = report["reference"]
    found: dict[str, Any] = next(row for row in report["rows"]
                                 if (row["method"], row["n"]) == (wanted["method"], wanted["n"]))
    return found


def headline(report: dict[str, Any], goal: str) -> str:
    """What the panel shows, in a sentence."""
    what = "accuracy" if goal == "accuracy" else "mean reward"
    if report["reference"] is None:
        return f"{what[0].upper()}{what[1:]} against compute"
    row = reference_row(report)
    name = f"Best-of-{row['n']}"
    cheap = [(entry[goal]["share_of_flops"], entry) for entry in report["to_reach"]
             if entry.get(goal) and entry["method"] not in (BASELINE, REFERENCE)]
    gain = ""
    if goal == "accuracy" and "gain" in row:
        gain = f"{name} gains {100 * row['gain']:.0f} points over one sample; "
    if not cheap:
        return f"{gain}{'n' if gain else 'N'}o other method reaches {name}'s {what}"
    share, entry = min(cheap, key=lambda pair: pair[0])
    most = "at most " if entry[goal]["at_most"] else ""
    times = f"{share:.0%} of" if share < 1 else f"{share:.1f} times"
    return f"{gain}{label(entry)} reaches {name}'s {what} with {most}{times} its FLOPs"
