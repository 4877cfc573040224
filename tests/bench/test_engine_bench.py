"""The engine's workloads on a small model: what is run, what is counted, what is said."""

import io
import json
import sys
from dataclasses import asdict

import pytest
from small import SMALL, small_llm, small_model

from ramify.bench import engine_child
from ramify.bench.costs import fit, measure_costs
from ramify.bench.engine import WORKLOADS, Workload, measure, named, random_texts, run
from ramify.bench.engine_report import columns, draw, lines, summary
from ramify.bench.machine import measure_limits, peak_bytes
from ramify.bench.memory import peak_cached, weight_bytes
from ramify.bench.random_model import Shape, named_folder, write_llama
from ramify.bench.watch import Forward, Turn, Watch
from ramify.engine.runner import kv_bytes
from ramify.errors import ModelError, OptionError, StorageError
from ramify.models import load_model
from ramify.models.kernels.tiles import BYTES
from ramify.theory.step_cost import Step

TOKENIZER = small_model().tokenizer
PROBE = {"limits": {"read": 1e10, "multiply": 1e11, "multiply_int8": 2e11}, "torch": "2", "threads": 1,
         "executor": "torch", "costs": {"fixed": 1e-3, "per_id": 1e-5, "per_row": 0.0, "per_pair": 0.0,
                                       "per_cached": 0.0},
         "cost_errors": {"median": 0.05, "worst": 0.2}, "positions": 512}


# Workloads


def test_workloads_by_name():
    assert [each.name for each in named("shared16, single,shared16")] == ["shared16", "single"]
    assert [each.tokens for each in named("single,prefill1024", 7)] == [7, 1]
    with pytest.raises(OptionError, match="shared64"):
        named("shared65")


@pytest.mark.parametrize("name", ["batch16", "shared16"])
def test_texts_are_as_long_as_asked_different_and_repeatable(name):
    texts = random_texts(WORKLOADS[name], TOKENIZER, 3)
    assert {len(TOKENIZER.encode_prompt(text)) for text in texts} == {WORKLOADS[name].length}
    assert len(set(texts)) == WORKLOADS[name].prompts and texts == random_texts(WORKLOADS[name], TOKENIZER, 3)
    assert texts != random_texts(WORKLOADS[name], TOKENIZER, 4)


def test_a_template_longer_than_the_prompt():
    with pytest.raises(ModelError, match="leaves room in 0 tokens"):
        random_texts(Workload("none", 1, 0, 1, 1), TOKENIZER, 0)


def test_every_candidate_is_as_long_as_the_workload_says():
    llm, workload, first = small_llm("none"), Workload("two", 2, 10, 3, 5), []
    results = run(llm, workload, random_texts(workload, TOKENIZER, 0), 0, first=lambda: first.append(True))
    assert [[candidate.tokens for candidate in result.candidates] for result in results] == [[5] * 3] * 2
    assert first == [True]


@pytest.mark.parametrize("workload", [Workload("apart", 3, 10, 1, 6), Workload("shared", 1, 22, 4, 6),
                                      Workload("prefill", 1, 40, 1, 1)], ids=str)
def test_measure(workload):
    llm, timed = small_llm("none"), []
    row = measure(llm, workload, 2, interpreter=7, done=timed.append)
    assert row["seconds"] == timed and len(timed) == 2
    assert row["counted"] == (workload.rows * workload.tokens if workload.tokens > 1 else workload.length)
    assert sum(ids for ids, *_ in row["counts"]) == workload.prompts * workload.length + workload.rows * (
        workload.tokens - 1)
    assert 0 <= row["outside_forward"] < 1 and row["expected_bytes"]["interpreter"] == 7
    weights = llm.model.decoder.flops(1, 0) / 2 * 4
    assert row["read_bytes"] >= weights * row["steps"] > 0
    assert row["expected_bytes"]["cache"] >= row["peak_kv_tokens"] * kv_bytes(llm.model)


@pytest.mark.parametrize("shape", [(1, 22, 4, 6), (3, 10, 1, 6), (2, 8, 3, 1), (1, 9, 2, 9)], ids=str)
def test_the_cache_of_a_run_is_known_before(shape):
    def check(expected):
        llm, workload = small_llm("none"), Workload("any", *shape)
        with Watch(llm.engine) as watch:
            run(llm, workload, random_texts(workload, TOKENIZER, 0), 0)
        assert watch.held[llm.model] == expected(*shape, 4)

    check(peak_cached)
    with pytest.raises(AssertionError):  # broken twin: nothing is shared
        check(lambda prompts, length, samples, tokens, block:
              prompts * samples * -(-(length + tokens - 1) // block) * block)


# Costs


def test_costs_of_every_model_that_works():
    llm = small_llm("implicit")
    costs = measure_costs(llm, llm.reward, budget=0)
    assert set(costs.by_model) == {llm.model, llm.reward.policy, llm.reward.reference}
    assert all(price >= 0 for cost in costs.by_model.values() for price in asdict(cost).values())
    assert all(cost.seconds(Step(1, 1, 10, 10)) > 0 for cost in costs.by_model.values())
    assert 0 <= costs.median_error <= costs.worst_error
    assert set(measure_costs(llm, budget=0).by_model) == {llm.model}


def test_the_grid_tells_shared_from_own_positions():
    llm, seen = small_llm("none"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ramify.bench.costs.fit", lambda measured: seen.extend(measured) or fit(measured))
        measure_costs(llm, budget=0)
    steps = {step for _, step, _ in seen}
    assert {step.rows for step in steps} == {1, 4, 16, 32, 64} and max(step.ids for step in steps) >= 64
    [own] = {step for step in steps if step.rows == step.ids == 16 and step.pairs == 16 * (24 + 96 + 1)}
    [shared] = {step for step in steps if step.rows == step.ids == 32 and step.pairs == 32 * (256 + 1)}
    assert own.cached > 16 * 96 and shared.cached == 256 + 32 * 16  # a block of its own for each


def test_costs_of_a_model_with_a_long_template(monkeypatch):
    llm = small_llm("none")
    encode = type(TOKENIZER).encode_prompt
    monkeypatch.setattr(type(TOKENIZER), "encode_prompt", lambda self, text: [5] * 60 + encode(self, text))
    assert set(measure_costs(llm, budget=0).by_model) == {llm.model}


def test_ideal_seconds_are_of_the_steps_not_of_the_clock():
    model, other = small_model(), small_model(2)
    costs = fit([(model, Step(n, n, 9 * n, 8), 1e-3 + 1e-4 * n) for n in (1, 2, 4, 8)])
    slow = [Turn([Forward(model, Step(6, 6, 54, 8), seconds=99.0)], 100.0)]
    assert costs.seconds(slow) == pytest.approx(1.6e-3) and costs.worst_error < 1e-9
    assert costs.seconds([Turn([Forward(other, Step(6, 6, 54, 8), seconds=0.5)], 0.6)]) == 0.5  # not measured


# The machine


def test_limits_are_rates():
    limits = measure_limits(read_bytes=2**20, side=64, repeats=2)
    assert min(asdict(limits).values()) > 1e6


def test_peak_memory_notices_what_was_held():
    before = peak_bytes()
    held = bytearray(300 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_bytes() >= before and peak_bytes() > 300 * 2**20


@pytest.mark.parametrize("executor", ["torch", "compiled", "int8", "int4-weights"])
def test_bytes_of_weights(executor, tmp_path):
    if executor == "int8" and not BYTES:
        pytest.skip("this processor has no sums of byte products")
    shape = Shape(hidden=32, layers=2, heads=2, kv_heads=1, inner=48, vocabulary=300, positions=64)
    folder = write_llama(tmp_path / "model", shape)
    model, exact = load_model(folder, executor=executor), load_model(folder, dtype="float64")
    table, once = shape.vocabulary * shape.hidden, model.num_parameters
    assert weight_bytes(exact) == 8 * once == exact.decoder.nbytes_read
    if executor == "torch":  # the table lies twice where the projection is packed
        assert weight_bytes(model) in (4 * once, 4 * (once + table))
    else:  # panels are padded, but nothing lies twice
        padded = model.decoder.embed.product.nbytes + sum(
            linear.product.nbytes for layer in model.decoder.layers
            for linear in (layer.attention.qkv, layer.attention.out, layer.mlp.up, layer.mlp.down))
        norms = 4 * shape.hidden * (2 * shape.layers + 1)
        assert weight_bytes(model) == padded + norms == model.decoder.nbytes_read
    assert model.decoder.nbytes_read <= model.decoder.nbytes


# Random models


def test_a_named_shape_is_written_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ramify.bench.random_model.SHAPES", {"tiny": SMALL})
    folder = named_folder("random:tiny")
    model = load_model(folder)
    assert model.decoder.config.hidden_size == SMALL.hidden and folder == str(tmp_path / "ramify" / "random-tiny")
    assert all(model.tokenizer.decode([token]) is not None for token in range(SMALL.vocabulary))
    written = (tmp_path / "ramify" / "random-tiny" / "model.safetensors").stat().st_mtime_ns
    assert named_folder("random:tiny") == folder
    assert (tmp_path / "ramify" / "random-tiny" / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "ramify").iterdir()] == ["random-tiny"]


def test_a_write_that_is_cut_short_leaves_no_model(monkeypatch, tmp_path, disk_of):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ramify.bench.random_model.SHAPES", {"tiny": SMALL})
    with disk_of(1000), pytest.raises((StorageError, Exception)):
        named_folder("random:tiny")
    assert list((tmp_path / "ramify").iterdir()) == []
    assert load_model(named_folder("random:tiny")).num_parameters > 0


def test_other_names_pass_and_unknown_shapes_do_not():
    assert named_folder("mini-math") == "mini-math"
    with pytest.raises(ModelError, match="random:135m"):
        named_folder("random:7t")


# The report and the child


@pytest.fixture(scope="module")
def report():
    held = {"executor": "torch", "loaded_bytes": 10**8, "peak_bytes": 2 * 10**8}
    rows = [{**measure(small_llm("none"), workload, 3), **held}
            for workload in (Workload("shared", 1, 22, 4, 6), Workload("prefill", 1, 40, 1, 1))]
    found = summary(PROBE, [1.0, 3.0, 2.0], rows)
    return {"model": "small", "dtype": "float32", "device": "cpu", **found,
            "left_out": {"prefix2048x64": "needs a longer context"}}


def test_the_report_says_its_numbers(report):
    row = report["rows"][0]
    assert report["cold_start_seconds"] == 2 and "counts" not in row
    assert row["bound_seconds"] == max(row["read_bytes"] / 1e10, row["flops"] / 1e11)
    ids = 22 + 4 * 5
    assert row["ideal_seconds"] == pytest.approx(6e-3 + 1e-5 * ids)
    heads, cells = columns(report)
    assert len(cells) == 2 and all(len(line) == len(heads) for line in cells) and "200 (" in cells[0][-1]
    said = "\n".join(lines(report))
    assert "10.0 GB/s" in said and "after 2.00 s" in said and "prefix2048x64 left out" in said


def test_the_picture(report):
    pytest.importorskip("matplotlib")
    assert draw(report)[:4] == b"\x89PNG"


def test_a_child_answers_in_lines(monkeypatch, tmp_path, capsys):
    folder = str(write_llama(tmp_path / "model", SMALL))
    options = {"model": folder, "dtype": "float32", "executor": "torch", "kv_dtype": None, "device": "cpu"}
    base = {"options": options, "seed": 0}
    for job, keys in (({"job": "workload", "name": "single", "tokens": 3, "repeats": 2}, ["seconds", "seconds", None]),
                      ({"job": "cold"}, ["first_token_at", None])):
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**base, **job})))
        engine_child.main()
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(rows) == len(keys) and all(list(row) == [key] for row, key in zip(rows, keys, strict=True) if key)
    nowhere = {**base, "options": {**options, "model": "/nowhere"}, "job": "cold"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(nowhere)))
    engine_child.main()
    assert json.loads(capsys.readouterr().out)["error"][0] == "ModelError"
