"""From the children's lines to one report: speeds beside what bounds them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from ramify.theory.step_cost import Step, StepCost

if TYPE_CHECKING:
    from ramify.trace import Row


def summary(probe: Row, cold: Sequence[float], rows: list[Row]) -> Row:
    """The report. Rates are per second and of the median run; a share is of the machine's measured limit.

    cold_start_seconds: from the start of a process to its first token, None if not measured. bound_seconds: what the
    run would take if reading and arithmetic ran at the limits, whichever is slower. ideal_seconds: its idealized
    runtime, the sum of what each of its steps costs with the machine to itself.
    """
    limits, cost = probe["limits"], StepCost(**probe["costs"])
    return {**{key: probe[key] for key in ("torch", "threads", "executor", "limits", "costs", "cost_errors")},
            "cold_start_seconds": median(cold) if cold else None, "cold_starts": list(cold),
            "rows": [_row(row, limits, cost) for row in rows]}


def _row(row: Row, limits: dict[str, float], cost: StepCost) -> Row:
    row = dict(row)
    seconds = median(row["seconds"])
    steps = [Step(*counts) for counts in row.pop("counts")]
    multiply = limits["multiply_int8" if row["executor"] == "int8" else "multiply"]
    return {**row, "spread": (max(row["seconds"]) - min(row["seconds"])) / seconds,
            "read_rate": row["read_bytes"] / seconds, "read_share": row["read_bytes"] / seconds / limits["read"],
            "multiply_rate": row["flops"] / seconds, "multiply_share": row["flops"] / seconds / multiply,
            "bound_seconds": max(row["read_bytes"] / limits["read"], row["flops"] / multiply),
            "ideal_seconds": sum(map(cost.seconds, steps))}


def columns(report: Row) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the table."""
    heads = ["workload", "tokens/s", "spread", "seconds\n(ideal)", "step\nms", "outside\nforward", "GB/s\nread",
             "GFLOP/s", "peak MB\n(expected)"]
    return heads, [[
        row["workload"], f"{row['tokens_per_second']:.1f}", f"{row['spread']:.0%}",
        f"{median(row['seconds']):.2f} ({row['ideal_seconds']:.2f})", f"{1000 * row['step_seconds']:.1f}",
        f"{row['outside_forward']:.0%}", f"{row['read_rate'] / 1e9:.1f} ({row['read_share']:.0%})",
        f"{row['multiply_rate'] / 1e9:.0f} ({row['multiply_share']:.0%})",
        f"{row['peak_bytes'] / 1e6:.0f} ({row['expected_bytes']['total'] / 1e6:.0f})"] for row in report["rows"]]


def lines(report: Row) -> list[str]:
    """What the table does not say."""
    limits, cost = report["limits"], report["costs"]
    said = [f"{report['model']} on {report['device']}, {report['dtype']}, executor {report['executor']}, "
            f"{report['threads']} threads.",
            f"The machine reads {limits['read'] / 1e9:.1f} GB/s and multiplies {limits['multiply'] / 1e9:.0f} GFLOP/s "
            f"in {report['dtype']}, {limits['multiply_int8'] / 1e9:.0f} in int8; shares are of these.",
            f"A step costs {1e3 * cost['fixed']:.2f} ms, and {1e6 * cost['per_id']:.1f} µs an id, "
            f"{1e6 * cost['per_row']:.1f} a row, {1e9 * cost['per_pair']:.1f} ns a pair of id and position, "
            f"{1e9 * cost['per_cached']:.1f} a cached position; median error {report['cost_errors']['median']:.0%}."]
    if report["cold_start_seconds"] is not None:
        said.append(f"A new process has its first token after {report['cold_start_seconds']:.2f} s.")
    return [*said, *(f"{name} left out: {why}." for name, why in report["left_out"].items())]


def draw(report: Row) -> bytes:
    """PNG bytes: per workload the tokens per second, and how near reading and arithmetic come to the limits."""
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ramify.bench.plot import COLOURS, FAINT, STYLE

    rows = report["rows"][::-1]
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 1.6 + 0.55 * len(rows)), layout="constrained", facecolor="white")
        speed, share = figure.subplots(1, 2, sharey=True)
        _bars(speed, rows, [("tokens_per_second", "", COLOURS[0])], "{:.0f}")
        speed.set_xlabel("tokens per second")
        _bars(share, rows, [("read_share", "bytes read", COLOURS[2]), ("multiply_share", "arithmetic", COLOURS[1])],
              "{:.0%}")
        share.axvline(1.0, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        share.set_xlabel("share of the machine's limit")
        share.legend(loc="lower right", frameon=False)
        title = f"The engine on {report['model']}: {report['dtype']}, {report['executor']}"
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def _bars(axes: Any, rows: list[Row], series: list[tuple[str, str, str]], form: str) -> None:
    height = 0.8 / len(series)
    for turn, (key, name, colour) in enumerate(series):
        places = [at + 0.4 - height * (turn + 0.5) for at in range(len(rows))]
        bars = axes.barh(places, [row[key] for row in rows], height, color=colour, label=name)
        axes.bar_label(bars, [form.format(row[key]) for row in rows], padding=3, fontsize=8.5)
    axes.set_yticks(range(len(rows)), [row["workload"] for row in rows])
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
