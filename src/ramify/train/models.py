"""Trunks to train: Hugging Face Llama models made, loaded and exported as ordinary folders."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ramify.errors import OptionError

Trunk = Any  # a transformers model: untyped, because that library is only imported when training starts


def transformers_module() -> Any:
    """The transformers library, which only training needs.

    Raises:
        OptionError: if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise OptionError(
            "the library transformers for training",
            "an installation without it",
            "run: pip install 'ramify[train]'",
        ) from error
    return transformers


def new_llama(vocabulary: int, *, hidden: int, inner: int, layers: int, heads: int, kv_heads: int,
              context: int, bos: int, eos: int, pad: int) -> Trunk:  # fmt: skip
    """A freshly initialised causal Llama with tied embeddings (call `torch.manual_seed` before)."""
    transformers = transformers_module()
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return transformers.LlamaForCausalLM(config)


def load_policy(folder: Path) -> Trunk:
    """The causal language model of a folder, in float32 and evaluation mode."""
    return transformers_module().AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def load_reward(folder: Path) -> Trunk:
    """The one-label sequence classifier of a folder, in float32 and evaluation mode."""
    classifier = transformers_module().AutoModelForSequenceClassification
    return classifier.from_pretrained(folder, dtype=torch.float32).eval()


def reward_from_policy(policy: Trunk, *, extra_layers: int = 0, frozen: bool = False) -> Trunk:
    """A sequence classifier with one label: a copy of the policy's trunk under a zero scalar head.

    `extra_layers` new layers that start as the identity sit between the two: they can compare each token with what
    the trunk predicted for its place. With `frozen`, only they, the last norm and the head will learn.
    """
    transformers = transformers_module()
    config = transformers.LlamaConfig.from_dict(policy.config.to_dict())
    old = config.num_hidden_layers
    config.num_labels, config.num_hidden_layers = 1, old + extra_layers
    model = transformers.LlamaForSequenceClassification(config)
    model.model.load_state_dict(policy.model.state_dict(), strict=not extra_layers)
    for layer in model.model.layers[old:]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    nn.init.zeros_(model.score.weight)
    for part in (model.model.embed_tokens, model.model.layers[:old]):
        part.requires_grad_(not frozen)
    return model


def export(model: Trunk, folder: Path) -> None:
    """Write config.json and model.safetensors in float16; `model` itself stays as it is."""
    twin = type(model)(type(model.config).from_dict({**model.config.to_dict(), "dtype": "float16"}))
    twin.load_state_dict(model.state_dict())
    twin.half().save_pretrained(folder)
