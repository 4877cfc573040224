"""One model with its cache: reads ragged rows, keeps prefixes, counts what it saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ramify.cache import BlockPool, BlockTable, KVStore, PrefixCache, bytes_per_token
from ramify.engine.batch import Row, Tree, flatten
from ramify.engine.device import DeviceReader, served
from ramify.engine.paged import attention_of
from ramify.engine.sequence import Context
from ramify.errors import CapacityError
from ramify.models.memory import free_bytes

if TYPE_CHECKING:
    from ramify.models import Model
    from ramify.types import Role


def kv_bytes(model: Model, kv_dtype: torch.dtype | None = None) -> int:
    """Bytes that a cache takes for one token of a model; `kv_dtype` None is the model's own type."""
    config, name = model.decoder.config, str(kv_dtype or model.dtype).removeprefix("torch.")
    return bytes_per_token(config.num_layers, config.num_kv_heads, config.head_dim, name)


class Runner:
    """Runs one model over paged contexts.

    Args:
        model: decoder, tokenizer and perhaps a scalar head.
        role: the ledger page its tokens go to.
        capacity: KV tokens that its cache may hold, rounded down to whole blocks.
        block_size: tokens per block.
        prefix_cache: whether prompts are remembered between requests.
        kv_dtype: what keys and values are rounded to; None keeps the model's type.

    Raises `CapacityError`: a cache larger than the memory that is free.
    """

    def __init__(self, model: Model, role: Role, capacity: int, block_size: int, prefix_cache: bool = True,
                 kv_dtype: torch.dtype | None = None) -> None:
        self.model, self.role, self.kv_dtype, config = model, role, kv_dtype, model.decoder.config
        needed, free = capacity * kv_bytes(model, kv_dtype), free_bytes(model.device)
        if needed > free:
            raise CapacityError(f"{needed / 1e9:.2f} GB for a cache of {capacity} tokens of {model.name}",
                                f"{free / 1e9:.2f} GB free", "lower capacity, or round the cache with kv_dtype=int8")
        self.pool = BlockPool(max(1, capacity // block_size), block_size)
        self.store = KVStore(config.num_layers, self.pool.num_blocks, block_size, config.num_kv_heads,
                             config.head_dim, kv_dtype or model.dtype, model.device)
        # How rows become hidden states.
        self.read: Callable[[list[Row]], Tensor] = (
            DeviceReader(model.decoder, self.store) if served(self.store, model.dtype) else self._read)
        self.prefixes = PrefixCache(self.pool) if prefix_cache else None
        self.tokens_seen = 0
        self._flops = model.decoder.flops(1, 0), model.decoder.flops(0, 1)

    @property
    def capacity(self) -> int:
        """KV tokens that the cache holds."""
        return self.pool.num_blocks * self.pool.block_size

    def flops(self, tokens: int, pairs: int) -> float:
        """Floating-point operations of reading `tokens` ids that see `pairs` cached positions in all."""
        return tokens * self._flops[0] + pairs * self._flops[1]

    def open(self, ids: list[int]) -> Context:
        """A context for a new prompt, starting from the longest remembered prefix but at least one id short."""
        table = BlockTable(self.pool) if self.prefixes is None else self.prefixes.match(ids[:-1])
        return Context(self, table, ids[: table.length])

    def remember(self, context: Context) -> None:
        """Keep a prompt's blocks for later requests."""
        if self.prefixes is not None:
            self.prefixes.insert(context.ids, context.table)

    @torch.inference_mode()
    def forward(self, work: list[tuple[Context, list[int], Tree | None]]) -> Tensor:
        """Read new ids, one ragged forward for all. Returns their hidden states hidden_TD, context after context.

        The caller made sure that the blocks are there.
        """
        rows, copies = [], []
        for context, ids, tree in work:
            start = context.table.length
            slots, copy = context.table.append(len(ids))
            if copy:
                copies.append(copy)
            rows.append(Row(context, ids, start, slots, tree))
        if copies:
            self.store.copy(copies)
        hidden_TD = self.read(rows)
        for context, ids, _ in work:
            context.ids += ids
            context.logits = None  # they belonged to the position before
        self.tokens_seen += len(hidden_TD)
        return hidden_TD

    def _read(self, rows: list[Row]) -> Tensor:
        decoder = self.model.decoder
        ids_T, positions_T = (numbers.to(self.model.device) for numbers in flatten(rows))
        hidden_TD: Tensor = decoder(ids_T, positions_T, attention_of(decoder.config, self.store, rows))
        return hidden_TD


def rows_of(x_TD: Tensor, rows: list[int]) -> Tensor:
    """Some rows, in this order; a view where it is all of them."""
    return x_TD if len(rows) == len(x_TD) and rows == list(range(len(rows))) else x_TD[rows]
