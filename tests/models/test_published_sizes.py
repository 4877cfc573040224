"""Configs as they are published: every field is understood, and the sizes are the published ones."""

import pytest
import torch

from ramify.models import Decoder, ModelConfig, parse_config

LLAMA3 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
          "rope_type": "llama3"}  # fmt: skip
PUBLISHED = {
    "Llama-3.2-1B": (1_235_814_400, {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
        "tie_word_embeddings": True, "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": LLAMA3,
        "rms_norm_eps": 1e-05, "eos_token_id": [128001, 128008, 128009], "attention_bias": False, "mlp_bias": False,
        "hidden_act": "silu", "pretraining_tp": 1}),
    "SmolLM2-135M": (134_515_008, {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "tie_word_embeddings": True,
        "max_position_embeddings": 8192, "rope_theta": 100000, "rope_scaling": None, "rms_norm_eps": 1e-05}),
    "Mistral-7B-v0.3": (7_248_023_552, {
        "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "sliding_window": None,
        "tie_word_embeddings": False, "max_position_embeddings": 32768, "rope_theta": 1000000.0}),
    "Qwen2.5-0.5B": (494_032_768, {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864, "tie_word_embeddings": True,
        "max_position_embeddings": 32768, "max_window_layers": 24, "sliding_window": 32768,
        "use_sliding_window": False, "use_mrope": False, "rope_theta": 1000000.0, "eos_token_id": 151643}),
    "Qwen3-0.6B": (596_049_920, {
        "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
        "tie_word_embeddings": True, "max_position_embeddings": 40960, "rope_theta": 1000000,
        "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28, "attention_bias": False}),
    "SmolLM3-3B": (3_075_098_624, {
        "model_type": "smollm3", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 11008, "rope_theta": 5000000.0,
        "max_position_embeddings": 65536, "no_rope_layers": [1, 1, 1, 0] * 9, "no_rope_layer_interval": 4,
        "layer_types": ["full_attention"] * 36, "use_sliding_window": False, "sliding_window": None}),
    "OLMo-2-0425-1B": (1_484_916_736, {
        "model_type": "olmo2", "vocab_size": 100352, "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 8192,
        "tie_word_embeddings": False, "max_position_embeddings": 4096, "rope_theta": 500000, "rms_norm_eps": 1e-06}),
    "Phi-3-mini-128k": (3_821_079_552, {
        "model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 8192, "sliding_window": 262144,
        "tie_word_embeddings": False, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "su", "short_factor": [1.05] * 48, "long_factor": [1.03] * 48},
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}),
    "gemma-2-2b": (2_614_341_888, {
        "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 4096,
        "max_position_embeddings": 8192, "rope_theta": 10000.0, "eos_token_id": [1, 107],
        "cache_implementation": "hybrid"}),
    "gpt2": (124_439_808, {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_ctx": 1024,
        "n_positions": 1024, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05,
        "eos_token_id": 50256}),
}  # fmt: skip


def size(config: ModelConfig) -> int:
    with torch.device("meta"):
        return Decoder(config).num_parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name):
    published, raw = PUBLISHED[name]
    assert size(parse_config(raw)) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_another_vocabulary_is_another_size(name):
    published, raw = PUBLISHED[name]
    assert size(parse_config({**raw, "vocab_size": raw["vocab_size"] - 1})) < published


def test_details_of_published_configs():
    read = {name: parse_config(raw) for name, (_, raw) in PUBLISHED.items()}
    assert read["Llama-3.2-1B"].eos_token_ids == (128001, 128008, 128009)
    assert read["Llama-3.2-1B"].max_positions == 131072
    assert read["Phi-3-mini-128k"].max_positions == 4096
    assert read["gpt2"].max_positions == 1024
    assert read["gpt2"].intermediate_size == 3072
    assert set(read["Mistral-7B-v0.3"].windows) == {None}
    assert set(read["Qwen2.5-0.5B"].windows) == {None}
    assert read["gemma-2-2b"].windows[:3] == (4096, None, 4096)
    assert read["SmolLM3-3B"].rope_layers[:5] == (True, True, True, False, True)
    assert read["Llama-3.2-1B"].rope.inv_freq[0] == 1.0
    assert read["Llama-3.2-1B"].rope.inv_freq[-1] == pytest.approx(500000.0 ** (-62 / 64) / 32)
    assert read["Phi-3-mini-128k"].rope.scale == pytest.approx((1 + 5 / 12) ** 0.5)


def test_yarn_stretches_the_positions():
    raw = PUBLISHED["Qwen2.5-0.5B"][1]
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
    assert parse_config({**raw, "rope_scaling": yarn}).max_positions == 131072
