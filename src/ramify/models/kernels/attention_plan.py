"""Which queries read which cached keys in a step, decided once for all of its layers.

A step's rows are paths through a tree: what several rows begin with is one run of blocks. A run that is worth it
becomes items that the queries of all its rows go through together, so that its keys are read once; what is left of a
row is its own tail. Shapes: R rows, T queries (one per new token), N blocks of all tables, Q runs, I items, S bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ramify.models.kernels.attention_tiles import KEYS as LONGEST
from ramify.models.kernels.jit import compiled

Array = np.ndarray[Any, np.dtype[Any]]

# Columns of an item: queries FIRST..END-1 in the plan's order, and KEYS keys of a run of blocks that begins at index
# BLOCK of the tables and at position PLACE of the text.
FIRST, END, BLOCK, KEYS, PLACE = range(5)
# Columns of what a query sees: positions LOW..HIGH-1, and if its row branches, of the SPAN positions from HIGH on
# those whose byte is set; its bytes begin at SEEN.
LOW, HIGH, SEEN, SPAN = range(4)
# Columns of a run: the one it continues, its blocks BEGIN..STOP-1 in the order of the text, the rows and the new
# tokens that share it, and where its first block stands in the tables.
PARENT, BEGIN, STOP, COUNT, TOKENS, TABLE = range(6)

HEADS_PER_ITEM = 48  # query heads that go through an item together, about; a multiple of every tile
# Costs in units of one query head and one key of it: reading a key and its value from memory, and an item by itself.
READ, ITEM = 8, 64
PART = 4000  # a part that is worth a thread: some 20 microseconds


class Rows(NamedTuple):
    """The rows of a step. Those of one text have span 0; in the others a tree of slots hangs on some position.

    tables_N: blocks of all rows, one table after another. ends_R: where each row's table ends. starts_R: position of
    the first new slot. counts_R: new tokens; those of all rows lie end to end. bases_R, spans_R: the position at
    which a row's tree begins, and how many slots it has with the new ones, which are its last. depths_D: for every
    slot of every tree, how far beyond the base its token stands in the text. sees_S: for every new token of every
    tree and every slot of its tree, whether it is seen.
    """

    tables_N: Array
    ends_R: Array
    starts_R: Array
    counts_R: Array
    bases_R: Array
    spans_R: Array
    depths_D: Array
    sees_S: Array


class Plan(NamedTuple):
    """Who reads what, and room for what is found; see `attention.attend`.

    tables_N: blocks of all rows. items_I5, sight_T4: columns as named above. tokens_T: which token a query is: the
    plan's order of queries keeps those that share a run together. seen_S: bytes. cuts: where each thread's part of
    the work begins, and the end of the last; work number w is item w % I of key head w // I. block_size: keys per
    block. sums_PXd, tops_PX2: per part and key head, for every query head: values weighed so far, and the highest
    score with the sum of weights relative to it.
    """

    tables_N: Array
    items_I5: Array
    tokens_T: Array
    sight_T4: Array
    seen_S: Array
    cuts: Array
    block_size: int
    sums_PXd: Array
    tops_PX2: Array


class Pages(NamedTuple):
    """A step for a decoder that runs all its layers in one call.

    slots_T: where the keys and values of new tokens go. plans: by window, 0 for none. kv: the store, see `attention`.
    """

    slots_T: Array
    plans: dict[int, Plan]
    kv: Array


def plan(rows, window, heads, kv_heads, head_dim, block_size, parts, lines=HEADS_PER_ITEM, reach=LONGEST):
    """The plan of one step for the layers that see `window` positions (0: all), in `parts` parts of equal cost.

    An item takes about `lines` query heads and `reach` keys.
    """
    return _plan(rows, window, heads, kv_heads, head_dim, block_size, parts, lines, reach)


@compiled
def _plan(rows, window, heads, kv_heads, head_dim, block_size, parts, lines, reach):
    runs_Q6, runs_R = _runs(rows, block_size)
    group = heads // kv_heads
    shared_Q = _shared(runs_Q6, group, block_size)
    first_Q, first_R = _order(runs_Q6, runs_R, rows.counts_R)
    tokens_T, sight_T4, seen_S = _sight(rows, first_R, window)
    tails_R = np.zeros(len(rows.counts_R), np.int64)
    for row in range(len(tails_R)):
        run = runs_R[row]
        while run >= 0 and not shared_Q[run]:
            run = runs_Q6[run, PARENT]
        tails_R[row] = runs_Q6[run, STOP] if run >= 0 else 0
    items_I5 = np.empty((0, 5), np.int64)
    for _ in range(2):  # count them, then write them down
        count = 0
        for run in range(len(runs_Q6)):
            if shared_Q[run]:
                keys = (runs_Q6[run, STOP] - runs_Q6[run, BEGIN]) * block_size
                count = _cut(items_I5, count, first_Q[run], runs_Q6[run, TOKENS], runs_Q6[run, TABLE], keys,
                             runs_Q6[run, BEGIN] * block_size, sight_T4, group, block_size, lines, reach)
        table = 0
        for row in range(len(tails_R)):
            place = tails_R[row] * block_size
            keys = rows.starts_R[row] + rows.counts_R[row] - place
            count = _cut(items_I5, count, first_R[row], rows.counts_R[row], table + tails_R[row], keys, place,
                         sight_T4, group, block_size, lines, reach)
            table = rows.ends_R[row]
        if len(items_I5) == 0:
            items_I5 = np.empty((count, 5), np.int64)
    cuts = _parts(items_I5, group, kv_heads, parts)
    room = kv_heads + len(cuts) - 2
    return Plan(rows.tables_N, items_I5, tokens_T, sight_T4, seen_S, cuts, block_size,
                np.empty((room, len(tokens_T) * group, head_dim), np.float32),
                np.empty((room, len(tokens_T) * group, 2), np.float32))


@compiled
def _runs(rows, block_size):
    """Runs of blocks that the same rows begin with, parents before children: runs_Q6, and each row's last, runs_R."""
    size = len(rows.tables_N)
    largest = 0
    for block in rows.tables_N:
        largest = max(largest, block)
    known = np.full(largest + 1, -1)  # the latest node of each block
    parents, counts, tokens, places = (np.empty(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64),
                                       np.empty(size, np.int64))
    last_R = np.empty(len(rows.ends_R), np.int64)
    made = begin = 0
    for row in range(len(last_R)):
        node = -1
        # A block that this step writes into is the row's own.
        for at in range(begin, begin + min(rows.starts_R[row], rows.bases_R[row]) // block_size):
            found = known[rows.tables_N[at]]
            if found < 0 or parents[found] != node:
                found = known[rows.tables_N[at]] = made
                parents[made], places[made] = node, at
                made += 1
            node = found
            counts[node] += 1
            tokens[node] += rows.counts_R[row]
        last_R[row] = node
        begin = rows.ends_R[row]
    runs_Q6, runs = np.empty((made, 6), np.int64), 0
    of = np.empty(made, np.int64)  # the run of each node
    for node in range(made):
        parent = parents[node]
        if parent >= 0 and parent == node - 1 and counts[parent] == counts[node]:
            of[node] = of[parent]
            runs_Q6[of[node], STOP] += 1
        else:
            begin = runs_Q6[of[parent], STOP] if parent >= 0 else 0
            runs_Q6[runs, PARENT] = of[parent] if parent >= 0 else -1
            runs_Q6[runs, BEGIN], runs_Q6[runs, STOP] = begin, begin + 1
            runs_Q6[runs, COUNT], runs_Q6[runs, TOKENS], runs_Q6[runs, TABLE] = counts[node], tokens[node], places[node]
            of[node] = runs
            runs += 1
    for row in range(len(last_R)):
        if last_R[row] >= 0:
            last_R[row] = of[last_R[row]]
    return runs_Q6[:runs], last_R


@compiled
def _shared(runs_Q6, group, block_size):
    """Which runs are worth items of their own; with a run also the one it continues, so that tails are in one piece."""
    shared_Q = np.zeros(len(runs_Q6), np.bool_)
    for run in range(len(runs_Q6) - 1, -1, -1):
        others = runs_Q6[run, COUNT] - 1
        keys = (runs_Q6[run, STOP] - runs_Q6[run, BEGIN]) * block_size
        if others and others * keys * READ > ITEM + 2 * group * runs_Q6[run, TOKENS]:
            shared_Q[run] = True
        if shared_Q[run] and runs_Q6[run, PARENT] >= 0:
            shared_Q[runs_Q6[run, PARENT]] = True
    return shared_Q


@compiled
def _order(runs_Q6, runs_R, counts_R):
    """The first query of each run and of each row, in an order in which those of every run are neighbours."""
    runs = len(runs_Q6)
    first_Q, first_R = np.empty(runs, np.int64), np.empty(len(runs_R), np.int64)
    free = np.zeros(runs + 1, np.int64)  # the next free place inside each run, and at last beside all
    for run in range(runs):
        first_Q[run] = free[run] = free[runs_Q6[run, PARENT]]
        free[runs_Q6[run, PARENT]] += runs_Q6[run, TOKENS]
    for row in range(len(runs_R)):
        first_R[row] = free[runs_R[row]]
        free[runs_R[row]] += counts_R[row]
    return first_Q, first_R


@compiled
def _sight(rows, first_R, window):
    """The token of each query and what it sees: tokens_T, sight_T4 and the bytes of trees, seen_S."""
    total = 0
    for count in rows.counts_R:  # Numba's sums and maxima take seconds to compile
        total += count
    tokens_T, sight_T4 = np.empty(total, np.int64), np.zeros((total, 4), np.int64)
    seen_S = np.empty(len(rows.sees_S), np.uint8)
    token = byte = slot = 0
    for row in range(len(first_R)):
        base, span, count = rows.bases_R[row], rows.spans_R[row], rows.counts_R[row]
        for at in range(count):
            query = first_R[row] + at
            tokens_T[query] = token
            token += 1
            place = rows.starts_R[row] + at
            if span:
                place = base + rows.depths_D[slot + span - count + at]
                for other in range(span):
                    near = window == 0 or base + rows.depths_D[slot + other] > place - window
                    seen_S[byte + other] = near and rows.sees_S[byte + other] != 0
            sight_T4[query, LOW] = max(0, place - window + 1) if window else 0
            sight_T4[query, HIGH] = base if span else place + 1
            sight_T4[query, SEEN], sight_T4[query, SPAN] = byte, span
            byte += span
        slot += span
    return tokens_T, sight_T4, seen_S


@compiled
def _cut(items_I5, count, first, queries, block, keys, place, sight_T4, group, block_size, lines, reach):
    """Add the items of one run to the `count` there are, as far as there is room. Returns how many there are then."""
    step = max(1, reach // block_size) * block_size
    width = max(1, lines // group)
    for begin in range(0, keys, step):
        size = min(step, keys - begin)
        for query in range(first, first + queries, width):
            end = min(query + width, first + queries)
            low, high = sight_T4[query, LOW], 0
            for each in range(query, end):
                low = min(low, sight_T4[each, LOW])
                high = max(high, sight_T4[each, HIGH] + sight_T4[each, SPAN])
            if low < place + begin + size and high > place + begin:
                if count < len(items_I5):
                    items_I5[count, FIRST], items_I5[count, END] = query, end
                    items_I5[count, BLOCK], items_I5[count, KEYS] = block + begin // block_size, size
                    items_I5[count, PLACE] = place + begin
                count += 1
    return count


@compiled
def _parts(items_I5, group, kv_heads, parts):
    """cuts: the work of all key heads, one after another, in at most `parts` parts of equal cost."""
    items, whole = len(items_I5), 0
    cost_I = np.empty(items, np.int64)
    for at in range(items):
        queries = items_I5[at, END] - items_I5[at, FIRST]
        cost_I[at] = ITEM + items_I5[at, KEYS] * (READ + group * queries)
        whole += cost_I[at] * kv_heads
    parts = max(1, min(parts, whole // PART))
    cuts = np.zeros(parts + 1, np.int64)
    share, done, part = whole / parts, 0, 1
    for work in range(items * kv_heads):
        while part < parts and done >= share * part:
            cuts[part] = work
            part += 1
        done += cost_I[work % items]
    cuts[part:] = items * kv_heads
    return cuts
