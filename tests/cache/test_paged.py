"""The paged cache against its plain twin: any order of append, fork, rewind, free, remember, match and evict."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.cache import BlockPool, BlockTable, KVStore, OutOfBlocks, PrefixCache
from ramify.cache.plain import PlainCache

LAYERS, ALPHABET, WIDTH = 2, 3, 4
OPS = ("append", "append", "fork", "rewind", "free", "match", "match", "insert", "evict")


class Paged:
    """Rows of tokens in the paged cache and in the twin; the value at a position names the prefix that ends there."""

    def __init__(self, block_size, num_blocks, table=BlockTable, prefixes=PrefixCache, dtype=torch.float64):
        self.pool = BlockPool(num_blocks, block_size)
        self.store = KVStore(LAYERS, num_blocks, block_size, 1, WIDTH, dtype)
        self.prefixes, self.table = prefixes(self.pool), table
        self.plain, self.tokens, self.tables = PlainCache(), {}, {}
        self.names, self.remembered, self.evicted, self.copied = {}, [], False, 0

    def values(self, tokens, start):
        return [self.names.setdefault(tuple(tokens[: at + 1]), len(self.names) + 1) for at in range(start, len(tokens))]

    def append(self, row, new):
        table, tokens = self.tables[row], self.tokens[row] + new
        need, held, length = table.blocks_needed(len(new)), table.blocks[:], table.length
        if need > self.pool.available:
            self.evicted |= self.prefixes.evict(need - self.pool.available) > 0
            need = table.blocks_needed(len(new))
        if need > self.pool.available:
            return
        used = self.pool.used
        slots, copy = table.append(len(new))
        assert self.pool.used - used == need and len(set(slots)) == len(new)
        # Only a partial last block that somebody else holds is copied; full blocks stay where they are.
        full = length // self.pool.block_size
        assert table.blocks[:full] == held[:full] and (copy is None or copy == (held[-1], table.blocks[full]))
        if copy:
            assert length % self.pool.block_size
            self.copied += 1
            self.store.copy([copy])
        values = self.values(tokens, len(tokens) - len(new))
        for layer in range(LAYERS):
            keys = torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1).repeat(1, 1, WIDTH) + layer
            self.store.write(layer, torch.tensor(slots), keys, -keys)
        self.plain.append(row, values)
        self.tokens[row] = tokens

    def match(self, row, tokens):
        table = self.prefixes.match(tokens)
        longest = max((agree(tokens, other) for other in self.remembered), default=0)
        assert table.length <= longest and (self.evicted or table.length == longest)
        self.tables[row] = self.table(self.pool, table.blocks, table.length)
        self.tokens[row] = tokens[: table.length]
        self.plain.append(row, self.values(self.tokens[row], 0))
        if table.length < len(tokens):
            self.append(row, tokens[table.length :])

    def insert(self, row):
        used = self.pool.used
        self.prefixes.insert(self.tokens[row], self.tables[row])
        assert self.pool.used == used
        self.remembered.append(self.tokens[row])

    def fork(self, row, child):
        used = self.pool.used
        self.tables[child], self.tokens[child] = self.tables[row].fork(), self.tokens[row]
        assert self.pool.used == used, "a fork allocates nothing"
        self.plain.fork(row, child)

    def rewind(self, row, length):
        self.tables[row].rewind(length)
        self.tokens[row] = self.tokens[row][:length]
        self.plain.rewind(row, length)

    def free(self, row):
        self.tables.pop(row).free()
        del self.tokens[row]
        self.plain.free(row)

    def evict(self, count):
        free = self.pool.available
        freed = self.prefixes.evict(count)
        assert freed <= count and self.pool.available == free + freed
        self.evicted |= freed > 0

    def check(self):
        held = [block for table in self.tables.values() for block in table.blocks]
        held += [node.block for node in self.prefixes._nodes()]
        assert self.pool.refs == [held.count(block) for block in range(self.pool.num_blocks)]
        assert self.pool.used == len(set(held)) == self.pool.num_blocks - self.pool.available
        for row, table in self.tables.items():
            assert table.length == len(self.tokens[row]) <= len(table.blocks) * self.pool.block_size
            for layer in range(LAYERS):
                keys, values = self.store.read(layer, torch.tensor([table.blocks], dtype=torch.long))
                want = [value + layer for value in self.plain.rows[row]]
                for found in (keys, -values):  # equal numbers of a head come back from bytes but for float32's rounding
                    assert found[0, : table.length].round().flatten(1).tolist() == [[value] * WIDTH for value in want]

    def close(self):
        for row in list(self.tables):
            self.free(row)
        assert self.pool.used == len(self.prefixes._nodes())
        self.prefixes.clear()
        assert self.pool.used == 0


def agree(left, right):
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def drive(script, cache):
    """Run a script of (operation, number, tokens), comparing with the twin after every step."""
    for turn, (kind, number, tokens) in enumerate(script):
        rows = list(cache.tables)
        row = rows[number % len(rows)] if rows else None
        if kind == "match":
            cache.match(turn, tokens)
        elif kind == "evict":
            cache.evict(number)
        elif row is None:
            continue
        elif kind == "append":
            cache.append(row, tokens)
        elif kind == "fork":
            cache.fork(row, turn)
        elif kind == "rewind":
            cache.rewind(row, number % (cache.tables[row].length + 1))
        elif kind == "insert":
            cache.insert(row)
        else:
            cache.free(row)
        cache.check()
    cache.close()


tokens_strategy = st.lists(st.integers(0, ALPHABET - 1), min_size=1, max_size=9)
script_strategy = st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 20), tokens_strategy), max_size=40)


@given(script=script_strategy, block_size=st.sampled_from([1, 2, 4, 16]), num_blocks=st.sampled_from([12, 200]),
       dtype=st.sampled_from([torch.float64, torch.int8]))
@settings(max_examples=60, deadline=None)
def test_paged_equals_plain(script, block_size, num_blocks, dtype):
    drive(script, Paged(block_size, num_blocks, dtype=dtype))


class NoCopyOnWrite(BlockTable):
    def _shared_tail(self):
        return False


class KeepsRewound(BlockTable):
    def rewind(self, length):
        self.length = length


class CopiesLate(BlockTable):
    """Copies when the last block is full too, where nobody writes."""

    def _shared_tail(self):
        return bool(self.blocks) and self.pool.refs[self.blocks[-1]] > 1


class RoundsUp(PrefixCache):
    """Takes a block that agrees in part for one that agrees in whole."""

    def match(self, tokens):
        table = super().match(tokens)
        table.length = min(len(tokens), len(table.blocks) * self.pool.block_size)
        return table


class Forgets(PrefixCache):
    """Gives up blocks that live tables still read."""

    def evict(self, count):
        nodes = self._nodes()[:count]
        for node in nodes:
            self.pool.release(node.block)
            node.parent.children.remove(node)
        return len(nodes)


class WholeBlocks(PrefixCache):
    """Reuses whole blocks only."""

    def match(self, tokens):
        table = super().match(tokens)
        table.rewind(table.length // self.pool.block_size * self.pool.block_size)
        return table


BROKEN = [{"table": NoCopyOnWrite}, {"table": KeepsRewound}, {"table": CopiesLate}, {"prefixes": RoundsUp},
          {"prefixes": Forgets}, {"prefixes": WholeBlocks}]  # fmt: skip


def long_script(seed):
    source = random.Random(seed)
    return [(source.choice(OPS), source.randrange(20), source.choices(range(ALPHABET), k=source.randint(1, 9)))
            for _ in range(150)]  # fmt: skip


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: next(iter(part.values())).__name__)
def test_a_broken_cache_is_caught(part):
    with pytest.raises(AssertionError):
        drive(long_script(0), Paged(4, 200, **part))


def test_the_script_that_catches_them_passes_and_copies():
    cache = Paged(4, 200)
    drive(long_script(0), cache)
    assert cache.copied > 5


def test_a_shared_partial_block_is_copied_once_per_writer_but_the_last():
    pool = BlockPool(8, 4)
    first = BlockTable(pool)
    first.append(6)
    second, third = first.fork(), first.fork()
    copies = [table.append(1)[1] for table in (first, second, third)]
    assert copies == [(1, 2), (1, 3), None]
    assert pool.used == 4 and pool.refs[0] == 3


def test_append_takes_exactly_the_blocks_it_announced_or_says_that_there_are_none():
    pool = BlockPool(2, 4)
    table = BlockTable(pool)
    assert table.blocks_needed(8) == 2 and table.blocks_needed(9) == 3
    table.append(7)
    fork = table.fork()
    assert fork.blocks_needed(1) == 1
    with pytest.raises(OutOfBlocks):
        fork.append(1)
    fork.free()
    assert table.append(1) == ([7], None)
    table.free()
    assert pool.used == 0


def test_prefixes_used_least_recently_go_first_and_those_in_use_stay():
    pool = BlockPool(8, 2)
    prefixes = PrefixCache(pool)
    for tokens in ([1, 1, 1, 1], [1, 1, 2, 2], [3, 3]):
        table = prefixes.match(tokens)
        table.append(len(tokens) - table.length)
        prefixes.insert(tokens, table)
        table.free()
    assert pool.used == 4  # the first block of two prompts is one
    held = prefixes.match([1, 1, 1, 1])
    assert prefixes.evict(1) == 1 and prefixes.match([1, 1, 2, 2]).length == 2
    assert prefixes.evict(8) == 1 and held.length == 4
    assert prefixes.match([3, 3]).length == 0


def test_a_prompt_computed_twice_is_kept_once():
    pool = BlockPool(8, 2)
    prefixes = PrefixCache(pool)
    first, second = BlockTable(pool), BlockTable(pool)
    for table in (first, second):  # both began before either was remembered
        table.append(3)
    prefixes.insert([1, 2, 3], first)
    prefixes.insert([1, 2, 3], second)
    first.free()
    prefixes.insert([1, 2, 3], second)
    second.free()
    assert pool.used == 2 and prefixes.match([1, 2, 3]).length == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_store_keeps_every_type(dtype):
    store = KVStore(1, 2, 2, 1, 2, dtype)
    keys = torch.tensor([[[1.5, -2.0]]], dtype=dtype)
    store.write(0, torch.tensor([3]), keys, keys)
    got, _ = store.read(0, torch.tensor([[1]]))
    assert got.dtype == dtype and got[0, 1].tolist() == [[1.5, -2.0]] and got[0, 0].tolist() == [[0, 0]]


def test_a_shorter_prompt_inside_a_remembered_block_adds_nothing():
    pool = BlockPool(4, 2)
    prefixes, table = PrefixCache(pool), BlockTable(pool)
    table.append(2)
    prefixes.insert([0, 0], table)
    table.free()
    short = prefixes.match([0])
    prefixes.insert([0], short)
    short.free()
    assert pool.refs[0] == 1 and prefixes.evict(1) == 1 and pool.used == 0
