"""The recipe's batches are functions of the step; all stages run end to end in miniature."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from safetensors import safe_open

from ramify.minis import recipe
from ramify.minis.problems import problem_stream
from ramify.minis.tokenizer import train_tokenizer
from ramify.models import load_model
from ramify.train.data import Row, buckets
from ramify.train.reward import Judged


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(documents=500)


def test_batches_depend_on_the_step_alone(tokenizer):
    forward, jumping = (recipe.fresh_problems(tokenizer, 2000, easy_steps=recipe.BLOCK) for _ in range(2))
    in_order = [forward(step) for step in range(2 * recipe.BLOCK)]
    for step in (20, 3, 31, 0):
        assert jumping(step) == in_order[step]


def test_easy_problems_come_first(tokenizer):
    batches = recipe.fresh_problems(tokenizer, 2000, easy_steps=recipe.BLOCK)
    lines = [max(tokenizer.decode(row.ids).count("\n") for row in batches(step)) for step in (0, recipe.BLOCK)]
    assert lines[0] <= 2 < 3 <= max(lines[1], *(tokenizer.decode(r.ids).count("\n") for r in batches(17)))


def test_an_epoch_shows_every_row_once(tokenizer):
    rows = [recipe.row_of(tokenizer, p) for p in islice(problem_stream("train", 0), 60)]
    batches = recipe.epochs(rows, 1000)
    count = len(buckets(rows, 1000, 0))
    for epoch in (0, 1):
        shown = [row for step in range(count) for row in batches(epoch * count + step)]
        assert sorted(row.ids for row in shown) == sorted(row.ids for row in rows)
    assert all(len(batch) * max(len(r.ids) for r in batch) <= 1000 for batch in map(batches, range(count)))


def test_pairs_join_right_and_wrong_of_one_problem():
    samples = [Judged([group, correct, i], 1, correct, group)
               for group, right in ((0, 3), (1, 0), (2, 1)) for i in range(4) for correct in [i < right]]  # fmt: skip
    pairs = recipe.preference_pairs(samples, most=2)
    assert sorted((p.chosen.ids[0], p.rejected.ids[0]) for p in pairs) == [(0, 0), (2, 2)]
    assert all(p.chosen.ids[1] and not p.rejected.ids[1] for p in pairs)


def test_samples_are_sound_as_far_as_they_follow_the_worked_solution(tokenizer):
    worked = [recipe.row_of(tokenizer, p) for p in islice(problem_stream("train", recipe.REWARD_SEED), 2)]
    whole = Judged(worked[1].ids, worked[1].prompt, True, 1)
    slipped = Judged([*worked[1].ids[:-5], 7, 7], worked[1].prompt, False, 1)
    detour = Judged([*worked[0].ids[:-5], 7, 7], worked[0].prompt, True, 0)
    found = recipe.how_far_sound(tokenizer, [whole, slipped, detour])
    assert [f.sound for f in found] == [len(whole.ids), len(whole.ids) - 5, len(detour.ids)]


@pytest.mark.slow
def test_all_stages_in_miniature(tmp_path, monkeypatch):
    tiny = recipe.Size(hidden=32, inner=32, layers=1, heads=2, kv_heads=1)
    for name in ("TARGET", "SMALL", "DRAFT"):
        monkeypatch.setattr(recipe, name, tiny)
    for name in ("TARGET_LOOP", "SMALL_LOOP", "DRAFT_SFT_LOOP", "DRAFT_LOOP", "DRAFT_SHARPEN_LOOP", "HEAD_LOOP",
                 "REWARD_LOOP", "DPO_LOOP"):
        monkeypatch.setattr(recipe, name, replace(getattr(recipe, name), steps=2))
    monkeypatch.setattr(recipe, "TOKENS_A_STEP", 1000)
    monkeypatch.setattr(recipe, "SMALL_TOKENS", 1000)
    samples = [Judged([0, 3, *range(5, 9), 1], 2, bool(i % 2), i // 8) for i in range(1600)]
    monkeypatch.setattr(recipe, "judged_samples", lambda *_, **__: samples)
    place = recipe.Place(tmp_path / "out", tmp_path / "weights")
    monkeypatch.setitem(recipe.STAGES, "card", lambda place: None)  # hundreds of problems; test_weights measures
    for stage in recipe.STAGES.values():
        stage(place)
    for name in ("mini-math", "mini-math-draft", "mini-math-reward", "mini-math-dpo", "mini-math-ref"):
        folder = place.weights / name
        config = json.loads((folder / "config.json").read_text())
        assert (folder / "tokenizer.json").exists() and config["pad_token_id"] != config["eos_token_id"]
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    assert load_model(place.weights / "mini-math-draft").acceptance is not None


def test_a_row_is_prompt_then_answer(tokenizer):
    problem = next(problem_stream("train", 0))
    row = recipe.row_of(tokenizer, problem)
    assert isinstance(row, Row)
    assert tokenizer.decode(row.ids[: row.prompt]) == problem.question
    assert tokenizer.decode(row.ids[row.prompt :]) == problem.solution
