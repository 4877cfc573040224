"""The committed weights: complete, small, in 16 bit, and as good as the model card's floor."""

import json

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from ramify.minis.evaluate import WEIGHTS, attempts, draft_report, pass_rates, prefix_scores, ranking_accuracy
from ramify.minis.problems import problems
from ramify.minis.tokenizer import CHAT_TEMPLATE
from ramify.train.models import load_policy, load_reward

MEMBERS = ("mini-math", "mini-math-draft", "mini-math-reward", "mini-math-dpo", "mini-math-ref")
MILLION = 1_000_000


@pytest.mark.parametrize("name", MEMBERS)
def test_folder_is_complete_and_in_16_bit(name):
    folder = WEIGHTS / name
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama" and config["max_position_embeddings"] == 512
    assert config["pad_token_id"] != config["eos_token_id"]
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == config["eos_token_id"]
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE
    with safe_open(folder / "model.safetensors", "pt") as file:
        dtypes = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert dtypes == {torch.float16}


def test_one_tokenizer_for_all():
    assert len({(WEIGHTS / name / "tokenizer.json").read_bytes() for name in MEMBERS}) == 1


def test_sizes_stay_within_the_promise():
    sizes = [file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()]
    assert max(sizes) <= 20 * MILLION and sum(sizes) <= 40 * MILLION
    assert (WEIGHTS / "mini-math-draft" / "model.safetensors").stat().st_size <= 2 * 0.7 * MILLION + 10_000


def test_quality_is_near_the_card():
    """Wide margins around the card's numbers: 40 problems only."""
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "mini-math" / "tokenizer.json"))
    target = load_policy(WEIGHTS / "mini-math")
    tries = attempts(target, tokenizer, problems("evaluation", 40), n=4)
    flat = [attempt for group in tries for attempt in group]
    assert 0.35 < pass_rates(tries)["pass@1"] < 0.85
    draft = load_policy(WEIGHTS / "mini-math-draft")
    assert draft_report(draft, target, flat[:40])["tokens_per_call"] > 2.5
    final = [float(scores[-1]) for scores in prefix_scores(load_reward(WEIGHTS / "mini-math-reward"), flat)]
    assert ranking_accuracy(final, flat) > 0.75
    assert ranking_accuracy([-score for score in final], flat) < 0.5  # the twin: a reward upside down
