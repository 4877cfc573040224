"""Loading holds a model once: it is packed as it is read, whatever type its file has."""

import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ramify.bench.machine import peak_bytes
from ramify.bench.random_model import Shape, write_llama
from ramify.errors import ModelError
from ramify.models import DenseAttention, load_model, weights
from ramify.models.kernels.products import BYTES
from ramify.models.memory import give_back
from ramify.models.weights import Parameter, open_weights

WIDE = Shape(hidden=256, layers=2, heads=4, kv_heads=2, inner=512, vocabulary=50_000, positions=64)
EXECUTORS = ["compiled", *(["int8"] if BYTES else []), "int4-weights"]
SLACK = 8e6  # bytes; the weights take 51 MB in float32


def halved(folder, target, dtype):
    """The same model in a file of another type."""
    weights = load_file(folder / "model.safetensors")
    target.mkdir()
    for path in folder.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    save_file({name: weight.to(dtype) for name, weight in weights.items()}, target / "model.safetensors")
    return target


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The model in float32 and in bfloat16, and libraries and kernels warm."""
    root = tmp_path_factory.mktemp("wide")
    folder = write_llama(root / "float32", WIDE)
    few = write_llama(root / "few", replace(WIDE, vocabulary=300))
    shutil.copy(few / "tokenizer.json", folder)  # one of so many words takes as much as the weights in bytes
    for executor in EXECUTORS:
        load_model(folder, executor=executor)
    return {"float32": folder, "bfloat16": halved(folder, root / "bfloat16", torch.bfloat16)}


def held_while(work):
    """Bytes that the process gained at the most while `work` ran, and what that returned."""
    give_back()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = peak_bytes()
    found = work()
    return peak_bytes() - before, found


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can count a peak anew")


@linux
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_loading_takes_little_more_than_the_model(executor, kind, wide):
    held, model = held_while(lambda: load_model(wide[kind], executor=executor))
    assert held <= model.decoder.nbytes + SLACK


@linux
def test_the_check_sees_a_second_copy(wide):
    def twice():
        read = torch.from_file(str(wide["float32"] / "model.safetensors"), size=13_000_000).clone()
        return read, load_model(wide["float32"], executor="int4-weights")

    held, (_, model) = held_while(twice)
    assert held > model.decoder.nbytes + SLACK


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("executor", ["torch", *EXECUTORS])
def test_a_file_of_16_bit_is_the_model_of_its_rounded_weights(executor, dtype, tmp_path):
    shape = Shape(hidden=64, layers=2, heads=2, kv_heads=1, inner=96, vocabulary=400, positions=64)
    half = halved(write_llama(tmp_path / "plain", shape), tmp_path / "half", dtype)
    rounded = halved(half, tmp_path / "rounded", torch.float32)
    tokens = torch.arange(40)

    def logits(folder):
        decoder = load_model(folder, executor=executor).decoder
        with torch.inference_mode():
            return decoder.logits(decoder(tokens, tokens, DenseAttention(decoder.config, [40])))

    assert torch.equal(logits(half), logits(rounded))
    assert not torch.equal(logits(half), logits(tmp_path / "plain"))


def parts_of(path, opened, turned=False):
    stored = open_weights(path, opened)
    rows = [stored[name].shape[1 if turned else 0] for name in "ab"]
    shape = torch.Size((sum(rows), stored["a"].shape[0 if turned else 1]))
    return Parameter([stored["a"], stored["b"]], rows, shape, torch.float32, "cpu", turned)


@pytest.mark.parametrize("ahead", [0, 6, 1 << 16])
def test_rows_across_parts(ahead, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "AHEAD", ahead)
    a, b = torch.randn(5, 3), torch.randn(4, 3)
    save_file({"a": a, "b": b}, tmp_path / "two.safetensors")
    with ExitStack() as opened:
        both = parts_of(tmp_path / "two.safetensors", opened)
        for rows in (slice(None), slice(0, 5), slice(3, 7), slice(5, 9), slice(8, 20), slice(4, 4), slice(1, 3)):
            assert torch.equal(both[rows], torch.cat((a, b))[rows])


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    path = tmp_path / "two.safetensors"
    save_file({"a": torch.ones(5, 30_000), "b": torch.ones(4, 30_000)}, path)
    with ExitStack() as opened:
        both = parts_of(path, opened)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        assert both[0:5].sum() == 150_000
        with pytest.raises(ModelError, match="intact"):
            both[:]
