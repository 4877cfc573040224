"""Attention over a paged cache by kernels, against whole dense sequences in float64: rows of every kind, mixed."""

import os
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from ramify.cache import KVStore
from ramify.engine.paged import ARRAYS
from ramify.models.attention import attention as dense
from ramify.models.kernels import attention, attention_plan
from ramify.models.kernels.attention_plan import BLOCK, END, FIRST, HIGH, KEYS, Rows, plan
from ramify.models.kernels.jit import has

LAYERS, LAYER, SCALE = 2, 1, 0.17


@dataclass
class Text:
    """One row of a step: where its blocks are, how long it is, how it branches."""

    blocks: list
    start: int
    count: int
    base: int
    depths: list = field(default_factory=list)
    sees: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))


class Step:
    """Random rows over a random store. Texts begin alike at several depths: all, some, or none of the way."""

    def __init__(self, seed, *, rows, group, head_dim, block_size=16, kv_heads=2, longest=70, dtype=torch.float32):
        self.random = np.random.default_rng(seed)
        self.group, self.kv_heads, self.head_dim, self.block_size = group, kv_heads, head_dim, block_size
        self.free = list(self.random.permutation(600))
        trunk, branch = ([self.free.pop() for _ in range(size)] for size in (9, 3))
        starts = [[], trunk, trunk + branch, trunk[:4]]
        self.rows = [self.text(starts[row % 4][: int(self.random.integers(0, 13))], longest, row % 3 == 2)
                     for row in range(rows)]
        self.store = KVStore(LAYERS, 600, block_size, kv_heads, head_dim, dtype)
        if dtype == torch.int8:
            self.fill()
        else:
            self.store.kv.copy_(torch.from_numpy(self.random.standard_normal(self.store.kv.shape)))
        self.kv = self.store.kv.view(ARRAYS.get(dtype, dtype)).numpy()
        self.tokens = sum(row.count for row in self.rows)
        width = kv_heads * group * head_dim
        self.q = self.random.standard_normal((self.tokens, width + 5)).astype(np.float32)

    def fill(self):
        """Tokens of different sizes in every slot, so that every scale is another."""
        slots = torch.arange(600 * self.block_size)
        for layer in range(LAYERS):
            sizes = torch.from_numpy(self.random.uniform(0.3, 1.5, (2, len(slots), self.kv_heads, 1)))
            noise = torch.from_numpy(self.random.standard_normal((2, len(slots), self.kv_heads, self.head_dim)))
            self.store.write(layer, slots, *(noise * sizes))

    def text(self, shared, longest, branches):
        size, draw = self.block_size, self.random.integers
        start = len(shared) * size + int(draw(0, 3 * size))
        count = int(draw(1, 6)) if branches else int(self.random.choice([1, 1, 5, longest]))
        row = Text([*shared, *(self.free.pop() for _ in range(-(-(start + count) // size) - len(shared)))],
                   start, count, start)
        if branches:
            held = int(draw(0, min(4, start - len(shared) * size) + 1))  # of the tree, from an earlier step
            parents = [int(draw(-1, at)) if at else -1 for at in range(held + count)]
            sees = np.eye(held + count, dtype=np.uint8)
            for at, parent in enumerate(parents):
                row.depths.append(0 if parent < 0 else row.depths[parent] + 1)
                if parent >= 0:
                    sees[at] |= sees[parent]
            row.base, row.sees = start - held, sees[held:]
        return row

    def arrays(self):
        rows = self.rows
        return Rows(np.array([block for row in rows for block in row.blocks]),
                    np.cumsum([len(row.blocks) for row in rows]), np.array([row.start for row in rows]),
                    np.array([row.count for row in rows]), np.array([row.base for row in rows]),
                    np.array([len(row.depths) for row in rows]),
                    np.array([depth for row in rows for depth in row.depths], np.int64),
                    np.concatenate([row.sees.ravel() for row in rows]))

    def plan(self, window=0, parts=1):
        return plan(self.arrays(), window, self.kv_heads * self.group, self.kv_heads, self.head_dim, self.block_size,
                    parts)

    def out(self, a_plan, softcap=0.0):
        out = np.empty((self.tokens, self.kv_heads * self.group * self.head_dim), np.float32)
        attention.attend(self.q, self.kv, LAYER, a_plan, SCALE, softcap, out)
        return out

    def wanted(self, window=0, softcap=0.0):
        """The same from each row's whole text, in float64."""
        out, token = [], 0
        for row in self.rows:
            end = row.start + row.count
            k, v = (x[:, :end].double() for x in self.store.read(LAYER, torch.tensor([row.blocks])))
            q = torch.tensor(self.q[token : token + row.count, :-5], dtype=torch.float64)
            mask = self.mask(row, window)
            out.append(dense(q.view(1, row.count, -1, self.head_dim), k, v, mask[None], SCALE, softcap or None))
            token += row.count
        return torch.cat([x[0].flatten(1) for x in out]).numpy()

    def mask(self, row, window):
        places = np.arange(row.start + row.count)
        seen = places <= places[row.start :, None]
        if row.depths:
            places[row.base :] = row.base + np.array(row.depths)
            seen[:] = np.arange(len(places)) < row.base
            seen[:, row.base :] = row.sees
        near = places > places[row.start :, None] - window if window else True
        return torch.tensor(seen & near)


CASES = [
    {"rows": 9, "group": 1, "head_dim": 16}, {"rows": 12, "group": 2, "head_dim": 32},
    {"rows": 24, "group": 3, "head_dim": 64}, {"rows": 8, "group": 7, "head_dim": 48},
    {"rows": 6, "group": 13, "head_dim": 80}, {"rows": 7, "group": 4, "head_dim": 32, "block_size": 32},
    {"rows": 3, "group": 2, "head_dim": 32, "kv_heads": 3, "longest": 300},
    {"rows": 12, "group": 3, "head_dim": 48, "dtype": torch.bfloat16},
    {"rows": 12, "group": 3, "head_dim": 48, "dtype": torch.int8},
    {"rows": 7, "group": 1, "head_dim": 16, "dtype": torch.int8, "block_size": 32},
    {"rows": 3, "group": 9, "head_dim": 64, "dtype": torch.int8, "longest": 300},
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("parts", [1, 3])
def test_equals_whole_sequences(case, parts):
    step = Step(case, **CASES[case])
    for window, softcap in [(0, 0.0), (0, 1.5), (5, 0.0), (40, 0.0), (150, 2.0)]:
        got = step.out(step.plan(window, parts), softcap)
        np.testing.assert_allclose(got, step.wanted(window, softcap), atol=1e-5, rtol=1e-5)


def test_large_scores_do_not_overflow():
    step = Step(3, rows=5, group=2, head_dim=16)
    step.q *= 300
    np.testing.assert_allclose(step.out(step.plan()), step.wanted(), atol=2e-3)
    assert np.isfinite(step.out(step.plan(), 30.0)).all()


@pytest.mark.parametrize("block_size, dtype", [(16, torch.float32), (32, torch.float32), (16, torch.bfloat16),
                                               (16, torch.int8), (32, torch.int8)])
def test_writes_what_the_store_would_write(block_size, dtype):
    twins = [Step(5, rows=4, group=2, head_dim=32, block_size=block_size, dtype=dtype) for _ in range(2)]
    slots, first = np.array([3, 17 * 16 + 15, 16, 4000]), 7
    new = twins[0].random.standard_normal((4, first + 2 * 2 * 32)).astype(np.float32)
    new[1], new[2, first : first + 32] = new[1] * 1e20, 0
    attention.write(twins[0].kv, LAYER, block_size, slots, new, first, first + 64)
    keys, values = torch.tensor(new[:, first:]).view(4, 2, 2, 32).unbind(1)
    twins[1].store.write(LAYER, torch.tensor(slots), keys, values)
    np.testing.assert_array_equal(twins[0].kv, twins[1].kv)


def keys_read(a_plan):
    """Keys that come from memory in the step, per key head: once for all items of neighbouring queries."""
    return sum({item[BLOCK]: item[KEYS] for item in a_plan.items_I5}.values())


def forest(widths, run=10, own=2, count=1, size=16):
    """Rows under a tree whose every branching has a run of blocks of its own."""
    tables, blocks = [[]], iter(range(10_000))
    for width in widths:
        tables = [table + [next(blocks) for _ in range(run)] for table in tables for _ in range(width)]
    rows = [table + [next(blocks) for _ in range(own)] for table in tables]
    start = np.array([len(row) * size - count for row in rows])
    none = np.zeros(0, np.int64)
    return Rows(np.array([block for row in rows for block in row]), np.cumsum([len(row) for row in rows]), start,
                np.full(len(rows), count), start, np.zeros(len(rows), np.int64), none, none.astype(np.uint8))


@pytest.mark.parametrize("count", [1, 5])
def test_what_is_shared_is_read_once_at_every_branching(count):
    rows = forest([1, 3, 4], count=count)
    # Runs of 160 keys: one of all, three of four rows each; what follows the last branching is the row's own.
    assert keys_read(plan(rows, 0, 4, 2, 32, 16, 1)) == 160 + 3 * 160 + 12 * (160 + 32)


def test_few_positions_are_not_worth_sharing():
    assert keys_read(plan(forest([1, 2], run=1, own=1, count=15), 0, 64, 1, 32, 16, 1)) == 2 * 48
    assert keys_read(plan(forest([1, 2], run=1, own=1), 0, 2, 1, 32, 16, 1)) == 16 + 2 * 32


BROKEN = {
    "sees one key too many": lambda made: made.sight_T4.__setitem__((slice(None), HIGH), made.sight_T4[:, HIGH] + 1),
    "forgets an item": lambda made: made.cuts.__setitem__(-1, made.cuts[-1] - 1),
    "reads a neighbour's block": lambda made: made.tables_N.__setitem__(0, made.tables_N[0] ^ 1),
    "mixes up two queries": lambda made: made.tokens_T.__setitem__([0, 1], made.tokens_T[[1, 0]]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plan_is_caught(name):
    step = Step(2, rows=12, group=2, head_dim=32)
    made = step.plan()
    BROKEN[name](made)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(step.out(made), step.wanted(), atol=1e-5, rtol=1e-5)


def test_a_wrong_scale_is_caught():
    for side in range(2):
        step = Step(2, rows=12, group=2, head_dim=32, dtype=torch.int8)
        wanted = step.wanted()
        np.testing.assert_allclose(step.out(step.plan()), wanted, atol=1e-5, rtol=1e-5)
        scales = step.store._scales[:, LAYER, side]
        scales.copy_(scales.roll(1, -1))
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(step.out(step.plan()), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3, 8, 40])
def test_parts_are_even_and_cover_everything(parts):
    made = plan(forest([1, 4, 4], count=3), 0, 9, 3, 64, 16, parts)
    items = made.items_I5
    queries = items[:, END] - items[:, FIRST]
    cost = np.tile(attention_plan.ITEM + items[:, KEYS] * (attention_plan.READ + 3 * queries), 3)
    assert made.cuts[0] == 0 and made.cuts[-1] == len(cost) and (np.diff(made.cuts) >= 0).all()
    shares = [cost[a:b].sum() for a, b in zip(made.cuts, made.cuts[1:], strict=False)]
    assert max(shares) <= cost.sum() / (len(made.cuts) - 1) + cost.max()


@pytest.mark.slow
@pytest.mark.skipif(not has("avx512f"), reason="this processor has no wider vectors to do without")
def test_narrower_vectors_find_the_same(tmp_path):
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt",
              "NUMBA_CACHE_DIR": str(tmp_path)}
    run = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", __file__]
    done = subprocess.run(run, env=os.environ | narrow, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
