"""The one error of this room and the checks that several files share."""

from __future__ import annotations

# Beyond this n * log F overflows; exp(length * KL) of any real search is far below.
WIDEST = 1e300


class OutOfRange(ValueError):
    """A number outside the range in which a formula means anything; `args` are needed, got and what to do."""

    def __str__(self) -> str:
        needed, got, do = self.args
        return f"needed {needed}; got {got}; {do}"


def need(ok: bool, needed: str, got: object, do: str) -> None:
    """Raise `OutOfRange` unless `ok`."""
    if not ok:
        raise OutOfRange(needed, str(got), do)


def need_width(n: float) -> None:
    """Raise `OutOfRange` unless `n` can be a number of candidates; formulas take real ones too."""
    need(1 <= n <= WIDEST, "n of at least 1", n, "draw at least one candidate")


def need_count(name: str, value: float) -> None:
    """Raise `OutOfRange` unless `value` is a whole number of at least 1."""
    need(value >= 1 and value == int(value), f"{name} to be a whole number of at least 1", value, "change it")
