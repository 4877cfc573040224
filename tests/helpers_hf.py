"""Small real model folders, written by transformers: the reference that ours is compared with.

transformers is imported late: it takes seconds, and most tests need none of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

SIZES = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2_SIZES = {"vocab_size": 128, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 96, "n_inner": None}
LENGTH = 40  # of the compared sequences; longer than every window below
LONG = [1.0 + 0.5 * pair for pair in range(8)]

# name: (model_type, what differs from SIZES)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied-bias": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("llama", {"head_dim": 24, "num_key_value_heads": 4}),
    "llama-linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama-dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    "llama3": ("llama", {"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}}),
    "llama-yarn": ("llama", {"rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24, "beta_fast": 4.0}}),
    "mistral": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {"sliding_window": 11}),
    "phi3-longrope": ("phi3", {
        "max_position_embeddings": 192, "original_max_position_embeddings": 48,
        "rope_scaling": {"type": "longrope", "short_factor": LONG, "long_factor": LONG}}),
    "phi3-partial": ("phi3", {"partial_rotary_factor": 0.75}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24}),
    "gpt2": ("gpt2", {}),
}  # fmt: skip
KINDS = sorted({kind for kind, _ in VARIANTS.values()})


def save_reference(variant: str, folder: Path, labels: int | None = None, **saving: Any) -> Any:
    """Write a random Hugging Face model and a tokenizer that fits it, and return the model.

    With `labels`, a sequence classifier. Weights are large enough for every detail to reach the logits.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind, changes = VARIANTS[variant]
    sizes = GPT2_SIZES if kind == "gpt2" else SIZES
    extra = {} if labels is None else {"num_labels": labels}
    config = AutoConfig.for_model(kind, **{"pad_token_id": 0, **sizes, **changes, **extra})
    auto = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    model = auto.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise * 0.15 if parameter.dim() == 2 else parameter.data + noise * 0.2
    model.tie_weights()
    model.save_pretrained(folder, **saving)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return model


def save_llama(folder: Path, head: bool = False) -> Path:
    """Write a one-layer Llama folder, or a reward model's, without transformers: quick, for tests of damage."""
    D, F, V = 16, 24, 128
    shapes = {
        "model.embed_tokens": (V, D), "model.norm": (D,), "lm_head": (V, D), "score": (1, D),
        **{f"model.layers.0.self_attn.{name}_proj": (D, D) for name in "qkvo"},
        **{f"model.layers.0.mlp.{name}_proj": (F, D) for name in ("gate", "up")},
        "model.layers.0.mlp.down_proj": (D, F), "model.layers.0.input_layernorm": (D,),
        "model.layers.0.post_attention_layernorm": (D,),
    }  # fmt: skip
    del shapes["lm_head" if head else "score"]
    config = {
        "model_type": "llama", "vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "eos_token_id": 2,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def byte_tokenizer(size: int = 128) -> Tokenizer:
    """A byte-level BPE tokenizer of the first `size` entries of the byte alphabet; no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:size]
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def edited(folder: Path, target: Path, name: str = "config.json", **changes: Any) -> Path:
    """A copy of a model folder with fields of one of its JSON files changed."""
    shutil.copytree(folder, target)
    path = target / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


def random_tokens(count: int, seed: int = 0, vocabulary: int = 128) -> Tensor:
    """Token ids, never the padding id 0."""
    return torch.randint(1, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))
