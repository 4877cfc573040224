"""`ramify bench engine` as a user runs it; children run in this process, but for one."""

import json
from functools import partial

import pytest

from ramify.bench import engine_child
from ramify.bench.machine import measure_limits
from ramify.cli import bench_engine


@pytest.fixture
def bench(ramify, model, monkeypatch):
    def child(job, note=lambda _: None):
        job = dict(job)
        monkeypatch.setattr(engine_child, "say", note)
        return engine_child.JOBS[job.pop("job")](**job)

    monkeypatch.setattr(engine_child, "measure_limits", partial(measure_limits, 2**20, 64, 1))
    monkeypatch.setattr(bench_engine, "child", child)
    return partial(ramify, "bench", "engine", "--model", model, "--max-tokens", "4", "--repeats", "2")


def test_json(bench):
    code, out, _ = bench("--workloads", "single,shared16", "--json")
    report = json.loads(out)
    assert code == 0 and [row["workload"] for row in report["rows"]] == ["single", "shared16"]
    assert all(len(row["seconds"]) == 2 and row["ideal_seconds"] > 0 for row in report["rows"])
    assert report["command"].startswith("ramify bench engine --model") and report["left_out"] == {}
    assert report["cold_start_seconds"] > 0 and report["limits"]["read"] > 0


def test_table_picture_and_what_does_not_fit(bench, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(bench_engine, "ALL", "single,prefix2048x64")
    code, out, err = bench("--workloads", "single,prefix2048x64", "--plot", tmp_path / "fig")
    assert code == 0 and "single" in out and "printed by: ramify bench engine" in out and "fig.png" in err
    assert "prefix2048x64 left out: needs a context of 2052, the model's is 512" in out
    assert (tmp_path / "fig.png").stat().st_size > 10_000


@pytest.mark.parametrize(("args", "said"), [
    (("--workloads", "single,prefix2048x64"), "workloads of at most 512 tokens"),
    (("--workloads", "double"), "workloads among"), (("--repeats", "0"), "repeats"),
    (("--model", "random:7t"), "a shape among"), (("--dtype", "float12"), "dtype"),
    (("--executor", "abacus"), "an executor among")], ids=str)
def test_mistakes(bench, args, said):
    code, out, err = bench(*args)
    assert code == 2 and out == "" and said in err


def test_a_child_that_is_a_process(model):
    from ramify.errors import ModelError

    options = {"model": model, "dtype": "float32", "executor": "torch", "kv_dtype": None, "device": "cpu"}
    seen, job = [], {"job": "cold", "options": options, "seed": 0}
    assert bench_engine.child(job, seen.append) == {}
    assert list(seen[0]) == ["first_token_at"]
    with pytest.raises(ModelError, match="/nowhere"):
        bench_engine.child({**job, "options": {**options, "model": "/nowhere"}})
