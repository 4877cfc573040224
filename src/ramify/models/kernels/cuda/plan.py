"""A step's integers, laid out for one transfer: what is read, where it goes, and who sees what.

Every array of a step has a place in one buffer of int32, whose layout depends on the `Sizes` alone. Rounded up, they
are those of many steps: what is added reads nothing, writes nothing, and is seen by nobody, so a step in a larger
layout gives the same results. Shapes: T tokens, N blocks of all tables, I items, U uses of queries by items, S bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ramify.models.kernels.attention_plan import END, FIRST, Rows, plan

Array = np.ndarray[Any, np.dtype[Any]]

LINES = 64  # query heads that go through an item together, about, if they are of 16 bits
REACH = 512  # keys of an item: few enough that one stream keeps a GPU busy
BUSY = 128  # tokens of a step, from which on items that reach further do so too
ALIGNED = 4  # arrays begin at 16 bytes: what Triton compiles depends on that


class PlanSizes(NamedTuple):
    """Sizes of one plan's arrays, and `lines`, the most query heads of an item."""

    items: int
    uses: int
    seen: int
    lines: int


class Sizes(NamedTuple):
    """Sizes of a step's arrays; one of `plans` for every window."""

    tokens: int
    blocks: int
    plans: tuple[PlanSizes, ...]

    def rounded(self) -> Sizes:
        """Sizes that hold this step and many others: every number becomes the next power of two."""
        plans = tuple(PlanSizes(*(_power(size) for size in plan)) for plan in self.plans)
        return Sizes(_power(self.tokens), _power(self.blocks, 256), plans)


def lines_together(head_dim: int, itemsize: int) -> int:
    """Query heads that go through an item together, about: what they add up to stays in registers."""
    return LINES * 2 // max(2, itemsize) // (2 if head_dim > 128 else 1)


def _power(size: int, least: int = 1) -> int:
    return max(least, 1 << (size - 1).bit_length()) if size else 0


class DevicePlan(NamedTuple):
    """A plan where the kernels run; see `attention_plan`.

    items_I6: the plan's items, and the first use of each. uses_U, begins_T: for every query its uses, those of query t
    from begins_T[t] to begins_T[t + 1], which has one number more. A use has `group` places, one per query head.
    """

    items_I6: Tensor
    tokens_T: Tensor
    sight_T4: Tensor
    seen_S: Tensor
    uses_U: Tensor
    begins_T: Tensor
    lines: int


class DeviceStep(NamedTuple):
    """A step where the kernels run. New keys and values go to slots_T, or nowhere if that is -1."""

    ids_T: Tensor
    positions_T: Tensor
    slots_T: Tensor
    tables_N: Tensor
    plans: dict[int, DevicePlan]


class DevicePages(NamedTuple):
    """A step for a decoder that runs its layers by itself. kv: the store; see `attention` for its layout."""

    step: DeviceStep
    kv: Tensor
    block_size: int
    together: int


class HostStep:
    """The same on the host, as it comes.

    heads, kv_heads: query heads and key heads of the model. windows: of its layers, 0 for none. lines: query heads
    that go through an item together.
    """

    def __init__(self, ids: Sequence[int], positions: Sequence[int], slots: Sequence[int], rows: Rows,
                 windows: Sequence[int], heads: int, kv_heads: int, block_size: int, lines: int = LINES) -> None:
        self.firsts = [np.fromiter(numbers, np.int32) for numbers in (ids, positions, slots)]
        self.tables_N, self.windows, reach = rows.tables_N, windows, REACH * max(1, len(ids) // BUSY)
        # Sums are kept on the device, so the plan is told of heads with a single number.
        made = (plan(rows, window, heads, kv_heads, 1, block_size, 1, lines, reach) for window in windows)
        self.plans = [_arrays(each) for each in made]
        sizes = (PlanSizes(len(items), len(uses), len(seen), max(16, _power(_most(items) * (heads // kv_heads))))
                 for items, _, _, seen, uses, _ in self.plans)
        self.sizes = Sizes(len(ids), len(rows.tables_N), tuple(sizes))

    def packed(self, sizes: Sizes) -> Array:
        """All arrays end to end, in the layout of these sizes."""
        tokens, places = sizes.tokens, _layout(sizes)
        ids, positions, slots = self.firsts
        arrays = [ids, positions, _longer(slots, tokens, -1), self.tables_N]
        for items, order, sight, seen, uses, begins in self.plans:
            others = np.arange(len(order), tokens)
            arrays += [items, np.concatenate([order, others]), sight, seen, uses,
                       _longer(begins, tokens + 1, begins[-1])]
        buffer = np.zeros(places[-1][1], np.int32)
        for array, (first, _, _) in zip(arrays, places, strict=True):
            buffer[first : first + array.size] = array.ravel()
        return buffer


def unpacked(buffer: Tensor, sizes: Sizes, windows: Sequence[int]) -> DeviceStep:
    """The arrays of a packed step, as views of its buffer."""
    views = [buffer[first:end].view(shape) for first, end, shape in _layout(sizes)]
    plans = {window: DevicePlan._make([*views[4 + 6 * at : 10 + 6 * at], sizes.plans[at].lines])
             for at, window in enumerate(windows)}  # fmt: skip
    return DeviceStep._make([*views[:4], plans])


def _layout(sizes: Sizes) -> list[tuple[int, int, tuple[int, ...]]]:
    """Where each array begins and ends, and its shape."""
    tokens = sizes.tokens
    shapes: list[tuple[int, ...]] = [(tokens,), (tokens,), (tokens,), (sizes.blocks,)]
    for items, uses, seen, _ in sizes.plans:
        shapes += [(items, 6), (tokens,), (tokens, 4), (seen,), (uses,), (tokens + 1,)]
    places, first = [], 0
    for shape in shapes:
        end = first + int(np.prod(shape))
        places.append((first, end, shape))
        first = -(-end // ALIGNED) * ALIGNED
    return places


def _arrays(made: Any) -> tuple[Array, ...]:
    """items_I6, tokens_T, sight_T4, seen_S, uses_U and begins_T of a plan."""
    counts_I = made.items_I5[:, END] - made.items_I5[:, FIRST]
    begins_I = np.cumsum(counts_I) - counts_I
    # Every item uses its queries in order; sorted by query, in a stable order, uses of one query are neighbours.
    queries_U = np.repeat(made.items_I5[:, FIRST] - begins_I, counts_I) + np.arange(counts_I.sum())
    order_U = np.argsort(queries_U, kind="stable")
    begins_T = np.searchsorted(queries_U[order_U], np.arange(len(made.tokens_T) + 1))
    return (np.column_stack([made.items_I5, begins_I]), made.tokens_T, made.sight_T4, made.seen_S, order_U, begins_T)


def _most(items_I6: Array) -> int:
    return int((items_I6[:, END] - items_I6[:, FIRST]).max())


def _longer(array: Array, size: int, fill: int) -> Array:
    return np.concatenate([array, np.full(size - len(array), fill)])
