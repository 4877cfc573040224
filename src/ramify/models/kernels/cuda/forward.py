"""A decoder's forward with few launches per layer: what lies between two products is one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ramify.models.kernels.cuda.attention import attend
from ramify.models.kernels.cuda.plan import DevicePages
from ramify.models.kernels.cuda.rowwise import add_norm, gated, turn
from ramify.models.rope import angles

if TYPE_CHECKING:
    from ramify.models.config import ModelConfig
    from ramify.models.decoder import Decoder


def covered(config: ModelConfig) -> bool:
    """Whether `DeviceForward` knows everything that a model of this config does."""
    return (config.norm == "rms" and config.norm_place == "before" and config.gated and config.activation == "silu"
            and config.rope is not None and config.qk_norm != "all")


class DeviceForward:
    """hidden_TD of a step's tokens, for a covered decoder, whatever form its projections have."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def __call__(self, ids_T: Tensor, positions_T: Tensor, pages: DevicePages) -> Tensor:
        """One forward over paged keys and values; see `Decoder.forward`."""
        decoder, config, step = self.decoder, self.decoder.config, pages.step
        assert config.rope is not None and decoder.inv_freq is not None
        x_TD = decoder.embed(ids_T)
        if config.embed_scale != 1.0:
            x_TD = x_TD * torch.tensor(config.embed_scale, dtype=x_TD.dtype)
        turns = angles(decoder.inv_freq, config.rope.scale, positions_T, torch.float32)
        more_TD, layers = None, list[Any](decoder.layers)
        for at, layer in enumerate(layers):
            block, mlp = layer.attention, layer.mlp
            normed_TD = add_norm(x_TD, more_TD, layer.attention_in.weight, config.norm_eps)
            norms = (block.q_norm.weight, block.k_norm.weight) if config.qk_norm else None
            q_THd = turn(block.qkv(normed_TD), turns if block.rotary else None, norms, config.norm_eps,
                         config.num_heads, at, pages)
            mixed_THd = attend(q_THd, pages.kv[:, at], step.plans[config.windows[at] or 0], step.tables_N,
                               config.attention_scale, config.attention_softcap or 0.0, pages.block_size,
                               pages.together)
            normed_TD = add_norm(x_TD, block.out(mixed_THd.flatten(1)), layer.mlp_in.weight, config.norm_eps)
            more_TD = mlp.down(gated(mlp.up(normed_TD)))
        return add_norm(x_TD, more_TD, decoder.norm.weight, config.norm_eps)
