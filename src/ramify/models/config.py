"""What a Hugging Face config.json says about a decoder, in one frozen value.

A `model_type` is a handful of differences from Llama; they are the functions below, one per architecture.
"""

from __future__ import annotations

import functools
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
    whether positions are rotated. norm_place: before a block, after it, or both ("sandwich"). norm_offset: added
    to norm weights. qk_norm: over each head, or over all heads at once. gated: the MLP multiplies two projections.
    attention_softcap, logit_softcap: c in c * tanh(x / c), or None. eos_token_ids: ids that end an answer.
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

    @property
    def distinct_windows(self) -> tuple[int, ...]:
        """The windows that there are, ascending; 0 stands for none. A step is planned once for each."""
        return _distinct(self.windows)


@functools.cache
def _distinct(windows: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(sorted({window or 0 for window in windows}))


def parse_config(raw: Raw) -> ModelConfig:
    """Read a config.json already decoded.

    Raises:
        ModelError: an unsupported architecture, a quantised model, or a missing or unusable field.
    """
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise ModelError(f"a model_type among {supported}", repr(kind), "use a model of a supported architecture")
    _refuse(raw, "quantization_config", "scale_attn_by_inverse_layer_idx", "use_bidirectional_attention")
    try:
        config = ModelConfig(model_type=kind, **ARCHITECTURES[kind](raw))
    except KeyError as missing:
        raise ModelError(f"{missing} in config.json", "a config without it", "download the model again") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError("sizes that make a model in config.json", str(error), "download the model again") from None
    if config.num_heads % config.num_kv_heads:
        got = f"{config.num_heads} heads on {config.num_kv_heads}"
        raise ModelError("query heads that share key heads evenly", got, "download the model again")
    return config


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """The `eos_token_id` field, which is an id, several or none."""
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _refuse(raw: Raw, *fields: str) -> None:
    for name in fields:
        if raw.get(name):
            raise ModelError(f"a model without {name}", f"{name}={raw[name]!r}", "use another version of the model")


_ACTIVATIONS: dict[str, Literal["silu", "gelu", "gelu_tanh"]] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip


def _activation(name: str) -> Literal["silu", "gelu", "gelu_tanh"]:
    if name not in _ACTIVATIONS:
        raise ModelError(f"an activation among {', '.join(_ACTIVATIONS)}", repr(name), "use another model")
    return _ACTIVATIONS[name]


def _llama(raw: Raw) -> dict[str, Any]:
    """Llama 2 and 3, SmolLM2. Every other architecture is written as what it changes here."""
    hidden, heads, layers = raw["hidden_size"], raw["num_attention_heads"], raw["num_hidden_layers"]
    head_dim = raw.get("head_dim") or hidden // heads
    rope = parse_rope(raw, head_dim)
    bias = raw.get("attention_bias", False)
    return {
        "vocab_size": raw["vocab_size"], "hidden_size": hidden, "num_layers": layers, "num_heads": heads,
        "num_kv_heads": raw.get("num_key_value_heads") or heads, "head_dim": head_dim,
        "intermediate_size": raw["intermediate_size"], "max_positions": rope.max_positions,
        "windows": (None,) * layers, "rope": rope, "rope_layers": (True,) * layers,
        "norm": "rms", "norm_eps": raw.get("rms_norm_eps", 1e-6), "norm_offset": 0.0, "norm_place": "before",
        "qk_norm": None, "qkv_bias": bias, "out_bias": bias, "mlp_bias": raw.get("mlp_bias", False),
        "gated": True, "activation": _activation(raw.get("hidden_act", "silu")),
        "attention_scale": head_dim**-0.5, "attention_softcap": None, "logit_softcap": None, "embed_scale": 1.0,
        "tie_embeddings": raw.get("tie_word_embeddings", False), "eos_token_ids": token_ids(raw.get("eos_token_id")),
    }  # fmt: skip


def _mistral(raw: Raw) -> dict[str, Any]:
    """A window over all layers."""
    return _llama(raw) | {"windows": (raw.get("sliding_window", 4096),) * raw["num_hidden_layers"]}


def _qwen2(raw: Raw) -> dict[str, Any]:
    """Biases on queries, keys and values; optionally a window on the upper layers."""
    sliding = raw.get("max_window_layers", 28)
    windows = _windows(raw, lambda layer: layer >= sliding, raw.get("use_sliding_window", False))
    return _llama(raw) | {"qkv_bias": True, "out_bias": False, "windows": windows}


def _qwen3(raw: Raw) -> dict[str, Any]:
    """Norms on each head's query and key instead of biases."""
    raw = {"head_dim": 128, **raw}
    bias = raw.get("attention_bias", False)
    return _qwen2(raw) | {"qk_norm": "head", "qkv_bias": bias, "out_bias": bias}


def _smollm3(raw: Raw) -> dict[str, Any]:
    """Every fourth layer sees no positions."""
    raw = {"rope_theta": 2_000_000.0, "tie_word_embeddings": True, **raw}
    every, layers = raw.get("no_rope_layer_interval", 4), raw["num_hidden_layers"]
    stated = raw.get("no_rope_layers") or [(layer + 1) % every for layer in range(layers)]
    rotary = tuple(bool(flag) for flag in stated[:layers])
    windows = _windows(raw, lambda layer: not rotary[layer], raw.get("use_sliding_window", False))
    return _llama(raw) | {"rope_layers": rotary, "windows": windows}


def _olmo2(raw: Raw) -> dict[str, Any]:
    """Norms after the blocks, and over all heads of the query and of the key."""
    return _llama({"rms_norm_eps": 1e-5, **raw}) | {"norm_place": "after", "qk_norm": "all"}


def _phi3(raw: Raw) -> dict[str, Any]:
    """Two rotations, for texts within and beyond the original window; a window over all layers."""
    raw = {"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096, **raw}
    return _llama(raw) | {"windows": (raw.get("sliding_window"),) * raw["num_hidden_layers"]}


def _gemma2(raw: Raw) -> dict[str, Any]:
    """Soft caps, norms on both sides of a block, scaled embeddings, a window on every other layer."""
    raw = {"head_dim": 256, "tie_word_embeddings": True, "sliding_window": 4096, **raw}
    return _llama(raw) | {
        "windows": _windows(raw, lambda layer: layer % 2 == 0, True), "norm_offset": 1.0, "norm_place": "sandwich",
        "activation": _activation(raw.get("hidden_activation") or "gelu_pytorch_tanh"),
        "attention_scale": raw.get("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": raw.get("attn_logit_softcapping", 50.0),
        "logit_softcap": raw.get("final_logit_softcapping", 30.0), "embed_scale": raw["hidden_size"] ** 0.5,
    }  # fmt: skip


def _gpt2(raw: Raw) -> dict[str, Any]:
    """Learned positions, layer norms, biases everywhere, one MLP projection upwards."""
    names = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    llama = {ours: raw[theirs] for ours, theirs in names.items()}
    llama["intermediate_size"] = raw.get("n_inner") or 4 * llama["hidden_size"]
    scaled = raw.get("scale_attn_weights", True)
    fields = _llama({"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, **raw, **llama})
    return fields | {
        "max_positions": raw.get("n_positions", 1024), "rope": None, "norm": "layer",
        "norm_eps": raw.get("layer_norm_epsilon", 1e-5), "gated": False,
        "activation": _activation(raw.get("activation_function", "gelu_new")),
        "attention_scale": fields["attention_scale"] if scaled else 1.0,
    }  # fmt: skip


def _windows(raw: Raw, slides: Callable[[int], bool], enabled: bool) -> tuple[int | None, ...]:
    """The window of every layer: `layer_types` says which slide, or `slides` where the config does not say."""
    layers = range(raw["num_hidden_layers"])
    types = raw.get("layer_types")
    sliding = [types[layer] == "sliding_attention" if types else slides(layer) for layer in layers]
    return tuple(raw.get("sliding_window", 4096) if enabled and sliding[layer] else None for layer in layers)


ARCHITECTURES: dict[str, Callable[[Raw], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "gemma2": _gemma2,
    "gpt2": _gpt2,
}
