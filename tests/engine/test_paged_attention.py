"""The engine's steps by kernels: what a row of any kind reads is what the plain torch path reads."""

import pytest
import torch
from tiny import VOCABULARY

import ramify
from ramify.cache import BlockPool, BlockTable, KVStore
from ramify.engine.batch import Row, Tree, flatten
from ramify.engine.padded import PaddedAttention
from ramify.engine.paged import PagedAttention, attention_of, rows_of
from ramify.engine.sequence import Context
from ramify.errors import OptionError
from ramify.models.config import parse_config

CONFIG = {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32,
          "max_position_embeddings": 1024}  # fmt: skip
WINDOWED = CONFIG | {"model_type": "mistral", "sliding_window": 20}


class Texts:
    """Contexts that fork, grow and branch, over one store filled with noise."""

    def __init__(self, config, block_size=16, dtype=torch.float32):
        self.config, self.pool = parse_config(config), BlockPool(200, block_size)
        self.store = KVStore(2, 200, block_size, 2, 16, dtype)
        self.source = torch.Generator().manual_seed(0)
        slots = torch.arange(200 * block_size)
        for layer in range(2):
            self.store.write(layer, slots, *torch.randn(2, len(slots), 2, 16, generator=self.source))

    def prompt(self, length):
        context = Context(None, BlockTable(self.pool), [0] * length)
        context.table.append(length)
        return context

    def read(self, context, count, tree=None):
        start = context.table.length
        slots, copy = context.table.append(count)
        if copy:
            self.store.copy([copy])
        return Row(context, [1] * count, start, slots, tree)

    def mixed(self):
        """One candidate of each kind: growing, a chunk, a chain of drafts, trees new and old, a short prompt."""
        root = self.prompt(100)
        left, right = root.fork(), root.fork()
        for context in (left, right):
            context.table.append(40)
        rows = [self.read(left.fork(), 1), self.read(right.fork(), 1), self.read(right.fork(), 5),
                self.read(left.fork(), 1), self.read(self.prompt(1), 30), self.read(root.fork(), 70)]
        base = left.table.length
        rows.append(self.read(left.fork(), 4, Tree(base, [0, 1, 1, 2], [[0], [0, 1], [0, 2], [0, 1, 3]])))
        grown = right.fork()
        grown.table.append(2)
        rows.append(self.read(grown, 2, Tree(base, [0, 0, 1, 1], [[0, 2], [1, 3]])))
        return rows

    def both(self, rows):
        tokens = len(flatten(rows)[0])
        q, k, v = (torch.randn(tokens, heads, 16, generator=self.source) for heads in (4, 2, 2))
        kernels, plain = attention_of(self.config, self.store, rows), PaddedAttention(self.config, self.store, rows)
        assert isinstance(kernels, PagedAttention)
        return [(kernels(layer, q, k, v), plain(layer, q, k, v)) for layer in range(2)]


@pytest.mark.parametrize("config", [CONFIG, WINDOWED], ids=["full", "window"])
@pytest.mark.parametrize("block_size, dtype", [(16, torch.float32), (32, torch.float32), (16, torch.bfloat16),
                                               (16, torch.int8), (32, torch.int8)])
def test_kernels_read_what_torch_reads(config, block_size, dtype):
    texts = Texts(config, block_size, dtype)
    for got, wanted in texts.both(texts.mixed()):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_a_tree_taken_for_a_text_is_caught():
    texts = Texts(CONFIG)
    rows = texts.mixed()
    straight = rows_of([Row(row.context, row.ids, row.start, row.slots) for row in rows])
    tokens = len(flatten(rows)[0])
    q, k, v = (torch.randn(tokens, heads, 16, generator=texts.source) for heads in (4, 2, 2))
    kernels, plain = PagedAttention(texts.config, texts.store, rows), PaddedAttention(texts.config, texts.store, rows)
    kernels.rows = straight
    with pytest.raises(AssertionError):
        torch.testing.assert_close(kernels(0, q, k, v), plain(0, q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype, block_size", [(torch.float64, 16), (torch.float32, 4)])
def test_torch_serves_what_kernels_do_not(dtype, block_size):
    texts = Texts(CONFIG)
    store = KVStore(2, 200, block_size, 2, 16, dtype)
    assert isinstance(attention_of(texts.config, store, texts.mixed()), PaddedAttention)


def test_rounded_keys_and_values_change_little_and_take_less():
    """Greedy logits of an embedded model, whose cache is read at every step."""
    answers, sizes = [], []
    for kv_dtype in (None, "bfloat16", "int8"):
        llm = ramify.load("mini-math", reward=None, kv_dtype=kv_dtype, capacity=512)
        answers.append(llm.generate("Tom has 3 bags with 6 apples each. He eats 2 apples. How many are left?",
                                    method="sample", max_tokens=24, temperature=0).text)
        kv = llm.engine.loop.target.store.kv
        sizes.append(kv.numel() * kv.element_size())
    assert answers[0] == answers[1] == answers[2] and sizes[0] == 2 * sizes[1] == 32 / 9 * sizes[2]


@pytest.mark.parametrize("options", [{"kv_dtype": "int4"}, {"kv_dtype": "int8", "dtype": "float64"}])
def test_other_kinds_of_keys_are_refused(options):
    with pytest.raises(OptionError, match="bfloat16, int8"):
        ramify.load("mini-math", **options)
