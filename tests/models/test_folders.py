"""A model folder that is damaged, unsupported or unfit is a ModelError that names the trouble."""

import json
import re
import subprocess
import sys

import pytest
import torch
from helpers_hf import byte_tokenizer, edited, random_tokens, save_llama
from safetensors.torch import load_file, save_file

from ramify.errors import ModelError
from ramify.models import DenseAttention, load_model
from ramify.models.config import ARCHITECTURES


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "model")


def trouble(folder, **options):
    """The message of the ModelError that loading raises."""
    with pytest.raises(ModelError) as caught:
        load_model(folder, **options)
    return str(caught.value)


def rewrite(folder, change):
    """Apply `change` to the dictionary of weights of a folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def logits(model):
    tokens = random_tokens(12)
    with torch.inference_mode():
        return model.decoder.logits(model.decoder(tokens, torch.arange(12), DenseAttention(model.decoder.config, [12])))


def test_an_intact_folder_loads(folder):
    model = load_model(folder)
    assert (model.name, model.path, model.head, model.warnings) == (str(folder), folder, None, [])
    assert model.decoder.config.eos_token_ids == model.tokenizer.eos_ids == (2,)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "nowhere/", "a/b/c", "", "C:\\models"])
def test_missing_folder(name):
    assert "not there" in trouble(name)


def test_a_file_is_not_a_folder(folder):
    assert "model.safetensors" in trouble(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file(name, folder):
    (folder / name).unlink()
    assert name in trouble(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b'{"model_type": "lla', b"[]", b"\xff\xfe"])
def test_a_text_file_that_is_not_a_json_object(name, content, folder):
    (folder / name).write_bytes(content)
    assert name in trouble(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights(kept, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "model.safetensors" in trouble(folder)


def test_corrupt_header(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[20:40] = b"\x00" * 20
    path.write_bytes(content)
    assert "intact" in trouble(folder)


def shard(folder):
    """Split the weights over two files with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: weights[name] for name in members}, folder / file)
    where = {name: file for file, members in parts.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()


def test_shards_are_one_model(folder):
    expected = logits(load_model(folder))
    shard(folder)
    assert torch.equal(logits(load_model(folder)), expected)


def test_missing_shard(folder):
    shard(folder)
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors" in trouble(folder)


def test_index_without_shards(folder):
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "index" in trouble(folder)


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    message = trouble(folder)
    assert "pickled" in message
    assert "save_pretrained" in message


def test_missing_tensor(folder):
    rewrite(folder, lambda weights: weights.pop("model.layers.0.self_attn.k_proj.weight"))
    assert "no model.layers.0.self_attn.k_proj.weight" in trouble(folder)


def test_extra_tensors(folder):
    rewrite(folder, lambda weights: weights.update({f"model.extra.{i}": torch.ones(1) for i in range(5)}))
    assert "also model.extra.0, model.extra.1, model.extra.2 and 2 more" in trouble(folder)


@pytest.mark.parametrize("name", ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm"])
@pytest.mark.parametrize("cut", [lambda w: w[:-1].clone(), lambda w: torch.cat((w, w)), lambda w: w[None].clone()])
def test_misshapen_tensor(name, cut, folder):
    key = f"model.layers.0.{name}.weight"
    rewrite(folder, lambda weights: weights.update({key: cut(weights[key])}))
    assert key in trouble(folder)


def test_heads_that_only_add_up(folder):
    swapped = {"q": 8, "k": 24, "v": 16}
    change = {f"model.layers.0.self_attn.{name}_proj.weight": torch.ones(rows, 16) for name, rows in swapped.items()}
    rewrite(folder, lambda weights: weights.update(change))
    assert "q_proj" in trouble(folder)


def test_integer_weights(folder):
    rewrite(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}))
    assert "of I8" in trouble(folder)


def test_unsupported_architecture_lists_the_supported(folder, tmp_path):
    message = trouble(edited(folder, tmp_path / "other", model_type="mamba"))
    assert "'mamba'" in message
    assert all(kind in message for kind in ARCHITECTURES)


@pytest.mark.parametrize(("field", "value"), [
    ("quantization_config", {"bits": 4}), ("hidden_act", "relu6"), ("num_key_value_heads", 3), ("hidden_size", "16"),
    ("num_attention_heads", 0), ("rope_scaling", {"rope_type": "spiral"}), ("rope_scaling", {"rope_type": "linear"}),
])  # fmt: skip
def test_a_config_we_cannot_follow(field, value, folder, tmp_path):
    assert len(trouble(edited(folder, tmp_path / "other", **{field: value}))) < 300


def test_a_config_without_a_size(folder, tmp_path):
    target = edited(folder, tmp_path / "other")
    config = json.loads((target / "config.json").read_text())
    del config["hidden_size"]
    (target / "config.json").write_text(json.dumps(config))
    assert "'hidden_size'" in trouble(target)


def test_a_tokenizer_with_ids_beyond_the_embedding(folder):
    byte_tokenizer(130).save(str(folder / "tokenizer.json"))
    message = trouble(folder)
    assert "128 embedding rows" in message
    assert "129" in message


def test_unknown_dtype(folder):
    assert "'int4'" in trouble(folder, dtype="int4")


@pytest.mark.parametrize("device", ["abacus", "cuda:99", ""])
def test_a_device_that_is_not_there(device, folder):
    assert repr(device) in trouble(folder, device=device)


def test_a_reward_needs_a_scalar_head(folder, tmp_path):
    assert "no score.weight" in trouble(folder, head=True)
    reward = save_llama(tmp_path / "reward", head=True)
    assert load_model(reward, head=True).head is not None
    rewrite(reward, lambda weights: weights.update({"score.weight": torch.ones(3, 16)}))
    assert "(3, 16)" in trouble(reward, head=True)


def test_a_reward_model_is_not_a_language_model(tmp_path):
    reward = save_llama(tmp_path, head=True)
    assert "lm_head.weight" in trouble(reward)
    assert "score.weight" in trouble(edited(reward, tmp_path / "tied", tie_word_embeddings=True))


def test_a_projection_stored_twice_is_tied_only_if_equal(folder, tmp_path):
    own = logits(load_model(folder))
    tied = edited(folder, tmp_path / "tied", tie_word_embeddings=True)
    model = load_model(tied)
    assert "ties" in model.warnings[0]
    assert torch.equal(logits(model), own)
    rewrite(tied, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()}))
    model = load_model(tied)
    assert model.warnings == []
    assert not torch.allclose(logits(model), own)


def test_a_bare_trunk_and_old_buffers_are_understood(folder, tmp_path):
    tied = edited(folder, tmp_path / "tied", tie_word_embeddings=True)
    rewrite(tied, lambda weights: weights.pop("lm_head.weight"))
    expected = logits(load_model(tied))
    weights = {name.removeprefix("model."): weight for name, weight in load_file(tied / "model.safetensors").items()}
    weights["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, tied / "model.safetensors")
    assert torch.equal(logits(load_model(tied)), expected)


def test_positions_that_end_early_are_a_warning(folder, tmp_path):
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    target = edited(folder, tmp_path / "long", model_type="phi3", rope_scaling=scaling, max_position_embeddings=64,
                    original_max_position_embeddings=32)  # fmt: skip
    rewrite(target, fuse)
    model = load_model(target)
    assert model.decoder.config.max_positions == 32
    assert re.search("positions end at 32, not 64", model.warnings[0])


def fuse(weights):
    """Phi-3's layout of the projections."""
    take = lambda *names: torch.cat([weights.pop(f"model.layers.0.{name}_proj.weight") for name in names])  # noqa: E731
    weights["model.layers.0.self_attn.qkv_proj.weight"] = take("self_attn.q", "self_attn.k", "self_attn.v")
    weights["model.layers.0.mlp.gate_up_proj.weight"] = take("mlp.gate", "mlp.up")


@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-model"])
def test_a_hub_id_without_connection(name):
    message = trouble(name)
    assert f"'{name}'" in message
    assert "hub" in message


def test_a_name_that_is_not_embedded():
    assert "mini-math-nothing" in trouble("mini-math-nothing")


def test_importing_models_leaves_the_heavy_libraries_alone():
    heavy = ("transformers", "huggingface_hub")
    script = f"import sys, ramify.models; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
