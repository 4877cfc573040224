"""Which tensors of a Hugging Face file make up which of our parameters."""

from __future__ import annotations

import re

from ramify.models.config import ModelConfig

# buffers that older files carry along; they follow from the config
IGNORED = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")

_Table = dict[str, tuple[str, ...]]
# our module: the file's modules, stacked along the output dimension in this order
_LLAMA: _Table = {
    "embed": ("embed_tokens",),
    "norm": ("norm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "mlp.up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
    "attention_in": ("input_layernorm",),
    "mlp_in": ("post_attention_layernorm",),
}
_AFTER: _Table = {"attention_out": ("post_attention_layernorm",), "mlp_out": ("post_feedforward_layernorm",)}
_SANDWICH: _Table = {**_AFTER, "mlp_in": ("pre_feedforward_layernorm",)}
_FUSED: _Table = {"attention.qkv": ("self_attn.qkv_proj",), "mlp.up": ("mlp.gate_up_proj",)}
_GPT2: _Table = {
    "embed": ("wte",),
    "positions": ("wpe",),
    "norm": ("ln_f",),
    "attention.qkv": ("attn.c_attn",),
    "attention.out": ("attn.c_proj",),
    "mlp.up": ("mlp.c_fc",),
    "mlp.down": ("mlp.c_proj",),
    "attention_in": ("ln_1",),
    "mlp_in": ("ln_2",),
}
_DIFFERENT: dict[str, _Table] = {
    "olmo2": {**_LLAMA, **_AFTER},
    "gemma2": {**_LLAMA, **_SANDWICH},
    "phi3": {**_LLAMA, **_FUSED},
    "gpt2": _GPT2,
}


def file_names(parameter: str, config: ModelConfig, bare: bool = False) -> list[str]:
    """The tensors that are stacked into `parameter`; `bare` files hold a trunk alone, without its prefix."""
    module, kind = parameter.rsplit(".", 1)
    if module == "head":
        return [f"lm_head.{kind}"]
    gpt2 = config.model_type == "gpt2"
    prefix = "" if bare else "transformer." if gpt2 else "model."
    if layer := re.match(r"layers\.(\d+)\.(.*)", module):
        prefix, module = f"{prefix}{'h' if gpt2 else 'layers'}.{layer[1]}.", layer[2]
    return [f"{prefix}{name}.{kind}" for name in _DIFFERENT.get(config.model_type, _LLAMA)[module]]


def file_rows(parameter: str, config: ModelConfig, total: int, parts: int) -> list[int]:
    """Output rows of each of the `parts` tensors that are stacked into the `total` rows of `parameter`."""
    if parts == 3:
        query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        return [query, key, key]
    return [total // parts] * parts


def stored_transposed(parameter: str, config: ModelConfig) -> bool:
    """Whether the file keeps this weight as (inputs, outputs): GPT-2's linear layers."""
    linear = (".qkv.weight", ".out.weight", ".up.weight", ".down.weight")
    return config.model_type == "gpt2" and parameter.endswith(linear)
