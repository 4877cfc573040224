"""What is free is told by the system and by the tightest limit, and what does not fit is refused before it is taken."""

import pytest

import ramify
from ramify.bench.random_model import Shape, write_llama
from ramify.engine.engine import default_capacity
from ramify.engine.runner import kv_bytes
from ramify.errors import CapacityError
from ramify.models import load_model
from ramify.models.memory import free_bytes

SHAPE = Shape(hidden=32, layers=2, heads=2, kv_heads=1, inner=48, vocabulary=300, positions=64)
V1, V2 = "4:memory:/box\n3:cpu:/\n", "0::/box\n"


def machine(root, groups, files):
    """A file system that says what Linux says of memory: 1,000 KiB free."""
    texts = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 1000 kB\n", "proc/self/cgroup": groups, **files}
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("groups", "files", "free"), [
    (V2, {}, 1_024_000),
    (V2, {"box/memory.max": "max\n", "box/memory.current": "7\n"}, 1_024_000),
    (V2, {"box/memory.max": "9000000\n", "box/memory.current": "7\n"}, 1_024_000),
    (V2, {"box/memory.max": "900\n", "box/memory.current": "700\n"}, 200),
    (V2, {"box/memory.max": "900\n", "box/memory.current": "700\n", "box/memory.stat": "inactive_file 50\n"}, 250),
    (V2, {"memory.max": "900\n", "memory.current": "950\n"}, 0),  # as a container sees its own
    (V1, {"memory/box/memory.limit_in_bytes": "900\n", "memory/box/memory.usage_in_bytes": "100\n"}, 800),
    (V1, {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "100\n"}, 1_024_000),
])  # fmt: skip
def test_the_tightest_limit_counts(groups, files, free, tmp_path):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert free_bytes("cpu", machine(tmp_path, groups, files)) == free


def test_this_machine_has_some_memory_left():
    assert 2**20 < free_bytes() < 2**50


@pytest.fixture
def folder(tmp_path):
    return write_llama(tmp_path / "model", SHAPE)


ROOMS = "models.executors", "engine.runner", "engine.engine"


def left(monkeypatch, count, rooms=ROOMS):
    for room in rooms:
        monkeypatch.setattr(f"ramify.{room}.free_bytes", lambda device: count)


@pytest.mark.parametrize(("executor", "do"), [("torch", "executor=int8"), ("int4-weights", "a smaller model")])
def test_weights_that_do_not_fit(executor, do, folder, monkeypatch):
    needed = int(load_model(folder, executor=executor).num_parameters * (4 if executor == "torch" else 0.5))
    left(monkeypatch, needed)
    assert load_model(folder, executor=executor).num_parameters > 0
    left(monkeypatch, needed - 1)
    with pytest.raises(CapacityError, match=do):
        load_model(folder, executor=executor)


def test_a_cache_that_does_not_fit(folder, monkeypatch):
    load = {"model": str(folder), "reward": None, "dtype": "float32"}
    each = kv_bytes(ramify.load(**load, capacity=64).model)
    left(monkeypatch, 10_000 * each)
    assert ramify.load(**load, capacity=10_000).engine.loop.target.capacity == 10_000
    with pytest.raises(CapacityError, match="kv_dtype=int8"):
        ramify.load(**load, capacity=10_016)
    rounded = ramify.load(**load, capacity=10_016, kv_dtype="int8").engine.loop.target
    assert 2 * kv_bytes(rounded.model, rounded.kv_dtype) < each


def test_a_cache_takes_a_quarter_of_what_is_free_unless_told(folder, monkeypatch):
    model = load_model(folder)
    left(monkeypatch, 40_000 * kv_bytes(model))
    assert default_capacity(model) == 10_000
    left(monkeypatch, 10 * kv_bytes(model), ROOMS[1:])
    with pytest.raises(CapacityError, match="lower capacity"):
        ramify.load(str(folder), reward=None, dtype="float32")
