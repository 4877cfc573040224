"""What a Hugging Face config.json says about a decoder, in one frozen value.

A `model_type` is a handful of differences from Llama; they are the functions below, one per architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ramify.errors import ModelError
from ramify.models.rope import Rope, parse_rope

Raw = Mapping[str, Any]


@dataclass(slots=True, frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer.

    num_heads, num_kv_heads: H query heads share G key heads. windows: per layer, the number of latest tokens a
    token sees, itself included; None sees all. rope: None means learned positions. rope_layers: per layer,
    whether positions are rotated. norm_place: before a block, after it, or both ("sandwich"). qk_norm: over
    each head, or over all heads at once. gated: the MLP multiplies two projections.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    windows: tuple[int | None, ...]
    rope: Rope | None
    rope_layers: tuple[bool, ...]
    norm: Literal["rms", "layer"]
    norm_eps: float
    norm_offset: float
    norm_place: Literal["before", "after", "sandwich"]
    qk_norm: Literal["head", "all"] | None
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    gated: bool
    activation: Literal["silu", "gelu", "gelu_tanh"]
    attention_scale: float
    attention_softcap: float | None
    logit_softcap: float | None
    embed_scale: float
    tie_embeddings: bool
    eos_token_ids: tuple[int, ...]


def parse_config(raw: Raw) -> ModelConfig:
    """Read a config.json already decoded.

    Raises:
        ModelError: an unsupported architecture, a quantised model, or a missing or unusable field.
    """
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise ModelError(f"a model_type among {supported}", repr(kind), "use a model of a supported architecture")
    if raw.get("quantization_config"):
        raise ModelError("weights in 16 or 32 bit", "a quantised model", "use the folder it was quantised from")
    try:
        fields = {**_llama(raw), **ARCHITECTURES[kind](raw)}
    except KeyError as missing:
        raise ModelError(f"{missing} in config.json", "a config without it", "download the model again") from None
    return ModelConfig(model_type=kind, **fields)


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """The `eos_token_id` field, which is an id, several or none."""
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _llama(raw: Raw) -> dict[str, Any]:
    """Llama 2 and 3, SmolLM2; also the defaults of all others."""
    hidden, heads, layers = raw["hidden_size"], raw["num_attention_heads"], raw["num_hidden_layers"]
    head_dim = raw.get("head_dim") or hidden // heads
    rope = parse_rope(raw, head_dim, default_theta=10_000.0)
    bias = raw.get("attention_bias", False)
    return {
        "vocab_size": raw["vocab_size"], "hidden_size": hidden, "num_layers": layers, "num_heads": heads,
        "num_kv_heads": raw.get("num_key_value_heads") or heads, "head_dim": head_dim,
        "intermediate_size": raw["intermediate_size"], "max_positions": rope.max_positions,
        "windows": (None,) * layers, "rope": rope, "rope_layers": (True,) * layers,
        "norm": "rms", "norm_eps": raw.get("rms_norm_eps", 1e-6), "norm_offset": 0.0, "norm_place": "before",
        "qk_norm": None, "qkv_bias": bias, "out_bias": bias, "mlp_bias": raw.get("mlp_bias", False), "gated": True,
        "activation": "silu", "attention_scale": head_dim**-0.5, "attention_softcap": None, "logit_softcap": None,
        "embed_scale": 1.0, "tie_embeddings": raw.get("tie_word_embeddings", False),
        "eos_token_ids": token_ids(raw.get("eos_token_id")),
    }  # fmt: skip


ARCHITECTURES: dict[str, Callable[[Raw], dict[str, Any]]] = {
    "llama": lambda raw: {},
}
