"""Our forward equals transformers' forward on the same weights, for every supported architecture."""

from pathlib import Path

import pytest
import torch
from helpers_hf import KINDS, LENGTH, VARIANTS, edited, random_tokens, save_reference

from ramify.models import Decoder, DenseAttention, Model, load_model
from ramify.models.config import ARCHITECTURES

TOLERANCE = 1e-4

# one detail per architecture that a careless forward would miss, as an edit of config.json
BROKEN = {
    "llama": {"rms_norm_eps": 0.1},
    "llama3": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "llama-yarn": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}},
    "mistral": {"sliding_window": 8},
    "qwen2-window": {"use_sliding_window": False},
    "qwen3": {"rms_norm_eps": 0.01},
    "smollm3": {"no_rope_layers": [1, 1, 1]},
    "olmo2": {"rms_norm_eps": 0.01},
    "phi3-longrope": {"max_position_embeddings": 384},
    "phi3-partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    "gemma2": {"attn_logit_softcapping": 20.0},
    "gpt2": {"activation_function": "silu"},
}


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """variant -> (folder, transformers' model); each is built once."""
    built = {}

    def build(variant: str):
        if variant not in built:
            folder = tmp_path_factory.mktemp(variant)
            built[variant] = folder, save_reference(variant, folder)
        return built[variant]

    return build


def run(decoder: Decoder, *sequences: torch.Tensor) -> torch.Tensor:
    """Logits of whole sequences flattened into one forward."""
    lengths = [len(tokens) for tokens in sequences]
    positions = torch.cat([torch.arange(length) for length in lengths])
    with torch.inference_mode():
        return decoder.logits(decoder(torch.cat(sequences), positions, DenseAttention(decoder.config, lengths)))


def difference(folder: Path, model) -> float:
    """Largest difference of our logits from transformers', over a whole sequence."""
    tokens = random_tokens(LENGTH)
    with torch.inference_mode():
        expected = model(tokens[None], use_cache=False).logits[0]
    assert expected.abs().max() > 0.5, "weights too small for the comparison to mean anything"
    return float((run(load_model(folder).decoder, tokens) - expected).abs().max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant, reference):
    folder, model = reference(variant)
    assert difference(folder, model) <= TOLERANCE


@pytest.mark.parametrize("variant", BROKEN)
def test_the_comparison_sees_a_wrong_detail(variant, reference, tmp_path):
    folder, model = reference(variant)
    assert difference(edited(folder, tmp_path / "broken", **BROKEN[variant]), model) > TOLERANCE


def test_every_supported_architecture_is_compared():
    assert sorted(ARCHITECTURES) == KINDS


@pytest.mark.parametrize("variant", ["llama", "qwen2-window", "gemma2", "gpt2"])
def test_flattened_sequences_equal_singles(variant, reference):
    decoder = load_model(reference(variant)[0], dtype="float64").decoder
    sequences = [random_tokens(length, seed=length) for length in (9, 1, 23)]
    together = run(decoder, *sequences)
    apart = torch.cat([run(decoder, tokens) for tokens in sequences])
    assert together.dtype == torch.float64
    assert (together - apart).abs().max() <= 1e-12


def test_flattened_sequences_must_not_see_each_other(reference):
    decoder = load_model(reference("llama")[0], dtype="float64").decoder
    sequences = [random_tokens(9, seed=9), random_tokens(23, seed=23)]
    positions = torch.cat([torch.arange(9), torch.arange(23)])
    with torch.inference_mode():
        leaking = decoder.logits(decoder(torch.cat(sequences), positions, DenseAttention(decoder.config, [32])))
    assert (leaking - run(decoder, *sequences)).abs().max() > TOLERANCE


@pytest.mark.parametrize("variant", [name for name, (kind, _) in VARIANTS.items() if name == kind])
def test_reward_equals_transformers(variant, tmp_path):
    model = save_reference(variant, tmp_path, labels=1)
    ours: Model = load_model(tmp_path, head=True)
    assert ours.head is not None
    tokens = random_tokens(LENGTH)
    with torch.inference_mode():
        expected = model(tokens[None], use_cache=False).logits
        hidden = ours.decoder(tokens, torch.arange(LENGTH), DenseAttention(ours.decoder.config, [LENGTH]))
        reward = ours.head(hidden[-1:])
        elsewhere = ours.head(hidden[-2:-1])
    assert reward.dtype == torch.float32
    assert reward.shape == (1,)
    assert float((reward - expected[0]).abs()) <= TOLERANCE
    assert float((elsewhere - expected[0]).abs()) > TOLERANCE
    assert ours.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_in_16_bit_are_upcast(stored, tmp_path, reference):
    _, model = reference("llama")
    save_reference("llama", tmp_path).to(stored).save_pretrained(tmp_path)
    rounded = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert difference(tmp_path, rounded) <= TOLERANCE
    assert difference(tmp_path, model) > TOLERANCE, "rounding to 16 bit must show"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logits_are_float32_for_weights_held_in_16_bit(dtype, reference):
    folder, _ = reference("llama")
    model = load_model(folder, dtype=dtype)
    logits = run(model.decoder, random_tokens(LENGTH))
    exact = run(load_model(folder).decoder, random_tokens(LENGTH))
    assert str(model.dtype) == f"torch.{dtype}"
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 0.2 * exact.abs().max()


def test_sharded_and_single_files_hold_the_same_model(tmp_path, reference):
    folder, model = reference("llama")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = random_tokens(LENGTH)
    assert torch.equal(run(load_model(tmp_path).decoder, tokens), run(load_model(folder).decoder, tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_size_is_that_of_transformers(variant, reference):
    folder, model = reference(variant)
    decoder = load_model(folder).decoder
    assert decoder.num_parameters == sum(parameter.numel() for parameter in model.parameters())
