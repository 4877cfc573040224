"""A tiny model and reward on disk, and the command as a user runs it."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ramify.cli import main

VOCAB, WIDTH, HEADS, INNER = 40, 16, 2, 32
LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789?#"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH,
          "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "rms_norm_eps": 1e-5,
          "intermediate_size": INNER, "max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": 0,
          "rope_theta": 10000.0, "hidden_act": "silu"}
SHAPES = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH), "self_attn.v_proj": (WIDTH, WIDTH),
          "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
          "mlp.down_proj": (WIDTH, INNER)}


def save_model(folder, seed, reward=False):
    """A one-layer random Llama over single letters, as a Hugging Face folder."""
    folder.mkdir()
    torch.manual_seed(seed)
    tensors = {f"model.layers.0.{name}.weight": torch.randn(shape) * 0.2 for name, shape in SHAPES.items()}
    for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        tensors[f"model.{name}.weight"] = torch.ones(WIDTH)
    tensors["model.embed_tokens.weight"] = torch.randn(VOCAB, WIDTH)
    config = CONFIG
    if reward:
        tensors["score.weight"] = torch.randn(1, WIDTH)
        config = {**CONFIG, "architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {"<eos>": 0, **{letter: at for at, letter in enumerate(LETTERS, 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    return str(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "policy", seed=1)


@pytest.fixture(scope="session")
def reward(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "reward", seed=2, reward=True)


@pytest.fixture
def ramify(monkeypatch, capsys):
    """`code, out, err = ramify("generate", ...)`: the console script in this process."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["ramify", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main.run()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return ended.value.code or 0, out, err

    return call
