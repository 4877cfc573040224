"""The summary as a picture: tokens per target call and speed-up by draft length, measured over expected."""

from __future__ import annotations

import io
from typing import Any

from ramify.bench.plot import COLOURS, FAINT, MARKS, STYLE
from ramify.trace import Row

PANELS = (("tokens_per_call", "expected_tokens_per_call", "tokens per target call"),
          ("speedup", "expected_speedup", "speed-up over plain decoding"))


def draw(report: Row) -> bytes:
    """PNG bytes. Chains by their length; trees and measured lengths as lines across."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.8), layout="constrained", facecolor="white")
        for axes, (measured, expected, what) in zip(figure.subplots(1, 2), PANELS, strict=True):
            _panel(axes, report, measured, expected)
            axes.set_xlabel("tokens drafted per target call")
            axes.set_ylabel(what)
            axes.axhline(1.0, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
        figure.suptitle(report["sentence"], x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def _panel(axes: Any, report: Row, measured: str, expected: str) -> None:
    chains: dict[str, list[Row]] = {}
    others = []
    for cell in report["cells"]:
        if cell["length"] and not cell["tree"]:
            chains.setdefault(cell["verifier"], []).append(cell)
        else:
            others.append(cell)
    pens = zip(COLOURS * 9, MARKS * 9, strict=False)
    for verifier, cells in chains.items():
        colour, mark = next(pens)
        cells = sorted(cells, key=lambda cell: cell["length"])
        x = [cell["length"] for cell in cells]
        axes.plot(x, [cell[measured] for cell in cells], mark, color=colour, markersize=7,
                  label=f"{verifier}: measured")
        if all(cell[expected] is not None for cell in cells):
            axes.plot(x, [cell[expected] for cell in cells], color=colour, linewidth=1.5, label=f"{verifier}: expected")
    for cell in others:
        colour, _ = next(pens)
        name = f"tree {cell['tree']}" if cell["tree"] else "measured length"
        axes.axhline(cell[measured], color=colour, linewidth=1.3, linestyle=":", label=f"{cell['verifier']}: {name}")
    if chains:
        lengths = sorted({cell["length"] for cells in chains.values() for cell in cells})
        axes.set_xticks(lengths)
    highest = max(cell[what] for cell in report["cells"] for what in (measured, expected) if cell[what] is not None)
    axes.set_ylim(0, 1.08 * max(highest, 1.0))
