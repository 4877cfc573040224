"""A decoder's forward by `forward`, from its packed projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ramify.models.kernels.attention_plan import Pages, Rows, plan
from ramify.models.kernels.forward import PHASES, Array, Room, Weights, forward, ready
from ramify.models.kernels.linear import ALONE, SCRATCH, width
from ramify.models.kernels.packed import BYTES, INPUTS, KIND, OUTPUTS, SPEC, aligned
from ramify.models.kernels.patience import patience, step
from ramify.models.kernels.team import new_board

if TYPE_CHECKING:
    from ramify.models.config import ModelConfig
    from ramify.models.decoder import Decoder


def covered(config: ModelConfig) -> bool:
    """Whether `forward` knows everything that a model of this config does."""
    return (config.norm == "rms" and config.norm_place == "before" and config.gated and config.activation == "silu"
            and config.rope is not None and config.qk_norm != "all" and config.head_dim % 16 == 0
            and len(config.distinct_windows) <= 2)


class Fused:
    """hidden_TD of a step's tokens, for a covered decoder whose projections are packed."""

    def __init__(self, decoder: Decoder) -> None:
        config = decoder.config
        assert config.rope is not None
        specs_L4S = np.zeros((config.num_layers, 4, SPEC), np.int64)
        norms_L4 = np.zeros((config.num_layers, 4), np.int64)
        self.windows = config.distinct_windows
        kinds_L2 = np.array([[rotary, self.windows.index(window or 0)]
                             for rotary, window in zip(config.rope_layers, config.windows, strict=True)], np.int64)
        layers: Any = decoder.layers
        table: Any = decoder.embed.product
        for at, layer in enumerate(layers):
            attention, mlp = layer.attention, layer.mlp
            for place, linear in enumerate((attention.qkv, attention.out, mlp.up, mlp.down)):
                specs_L4S[at, place] = linear.product.packed.spec
            norms_L4[at, :2] = layer.attention_in.weight.data_ptr(), layer.mlp_in.weight.data_ptr()
            if config.qk_norm:
                norms_L4[at, 2:] = attention.q_norm.weight.data_ptr(), attention.k_norm.weight.data_ptr()
        self.weights = Weights(
            table.packed.spec, specs_L4S, norms_L4, decoder.norm.weight.data_ptr(), kinds_L2,
            np.array(config.rope.inv_freq, np.float32), config.rope.scale, config.embed_scale, config.norm_eps,
            config.attention_scale, config.attention_softcap or 0.0, config.num_heads, config.num_kv_heads,
            config.head_dim)  # fmt: skip
        self.size = int((specs_L4S[..., INPUTS] * specs_L4S[..., OUTPUTS]).sum())
        self.board = new_board(PHASES * config.num_layers + 3)
        self.room = self._room(0)
        self.ready: set[np.dtype[Any]] = set()  # kinds of stores that `forward` went through `ready` for

    def warm(self) -> None:
        """Run once, so that whatever has to be compiled or loaded is."""
        weights, size = self.weights, 16
        nothing, one = np.zeros(0, np.int64), np.ones(1, np.int64)
        rows = Rows(0 * one, one, 0 * one, one, 0 * one, 0 * one, nothing, np.zeros(0, np.uint8))
        step("attention_plan.plan")
        plans = {window: plan(rows, window, weights.heads, weights.kv_heads, weights.head_dim, size,
                              torch.get_num_threads()) for window in self.windows}  # fmt: skip
        kv = aligned((1, len(weights.specs_L4S), 2, weights.kv_heads, size * weights.head_dim), np.float32)
        self(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), Pages(0 * one, plans, kv))

    def _room(self, tokens: int) -> tuple[Array, ...]:
        """Room for so many tokens, but for the result."""
        specs = self.weights.specs_L4S[0]
        qkv, mixed, hidden, inner = (int(specs[at, column]) for at, column in
                                     ((0, OUTPUTS), (1, INPUTS), (0, INPUTS), (3, INPUTS)))
        sizes = (hidden, qkv, mixed, inner)
        floats = tuple(np.empty((tokens, size), np.float32) for size in sizes)
        codes = np.empty(tokens * max(width(spec) if spec[KIND] == BYTES else 0 for spec in specs), np.uint8)
        turns = np.empty((tokens, 2, len(self.weights.frequencies_r)), np.float32)
        return (*floats, codes, np.empty(tokens, np.float32), turns)

    def __call__(self, ids_T: Tensor, positions_T: Tensor, pages: Pages) -> Tensor:
        """One forward over paged keys and values."""
        tokens = len(ids_T)
        threads = 1 if tokens * self.size < ALONE else torch.get_num_threads()
        if tokens > len(self.room[0]):
            self.room = self._room(tokens)
        hidden_TD = torch.empty(tokens, self.weights.table_S[INPUTS])
        normed, qkv, mixed, act, codes, scales, turns = self.room
        room = Room(hidden_TD.numpy(), normed[:tokens], qkv[:tokens], mixed[:tokens], act[:tokens], codes,
                    scales[:tokens], turns[:tokens], np.empty((threads, SCRATCH), np.float32))
        self.board[:] = 0
        plans = pages.plans[self.windows[0]], pages.plans[self.windows[-1]]
        args = (threads, self.board, ids_T.numpy(), positions_T.numpy(), pages.slots_T, plans, pages.kv, self.weights,
                room)
        if pages.kv.dtype not in self.ready:
            with patience():
                ready(*args)
            self.ready.add(pages.kv.dtype)
        forward(*args)
        return hidden_TD
