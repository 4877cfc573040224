"""`ramify plan` as a user runs it."""

import json

import pytest

from ramify import load


@pytest.fixture
def plan(ramify, model, reward):
    def call(*args, reward=reward):
        return ramify("plan", "--model", model, "--reward", reward, "--max-tokens", "8", "-n", "8", *args)

    return call


def test_every_method(plan):
    code, out, _ = plan("--json", "--prompt-tokens", "20")
    report = json.loads(out)
    rows = {row["method"]: row for row in report["rows"]}
    assert code == 0 and list(rows) == ["sample", "self_consistency", "best_of_n", "speculative_rejection", "treebon"]
    assert rows["sample"]["tokens"] == {"target": 20 + 7} and rows["sample"]["seconds"] is None
    assert rows["best_of_n"]["tokens"]["target"] == 20 + 8 * 7
    assert rows["speculative_rejection"]["tokens"]["target"] < rows["best_of_n"]["tokens"]["target"]
    assert rows["best_of_n"]["peak_bytes"]["total"] > rows["best_of_n"]["peak_bytes"]["cache"] > 0


def test_what_it_says_is_what_a_search_spends(plan, model, reward):
    row = json.loads(plan("--json", "--methods", "treebon", "--prompt-tokens", "9", "--set", "treebon.layers=2")[1]
                     )["rows"][0]
    usage = load(model, reward=reward, dedupe=False).generate(
        "aaaaaaaaa", "treebon", n=8, max_tokens=8, layers=2, ignore_eos=True, logit_bias={0: -100.0}).usage
    assert row["tokens"]["target"] == usage.target.tokens
    assert row["flops"]["total"] == pytest.approx(usage.flops) and row["peak_kv_tokens"] == usage.peak_kv_tokens


def test_seconds(plan):
    code, out, err = plan("--cost", "--methods", "sample,best-of-n")
    assert code == 0 and "measuring this machine" in err and "median error" in out and "best_of_n" in out
    report = json.loads(plan("--cost", "--methods", "sample,best_of_n", "--json")[1])
    one, many = report["rows"]
    assert 0 < one["seconds"] <= many["seconds"]  # the same prices, and more of everything


def test_without_a_reward(plan):
    code, out, _ = plan("--methods", "sample", "--json", reward="none")
    assert code == 0 and json.loads(out)["reward"] is None


@pytest.mark.parametrize(("args", "said"), [
    (("--methods", "worst_of_n"), "a method among"), (("--set", "treebon.sausage=1"), "sausage"),
    (("--set", "layers=2"), "before a dot"), (("--set", "tree.layers=2"), "before a dot"),
    (("--prompt-tokens", "600"), "512"), (("--set", "treebon.children=9"), "children between 1 and n"),
    (("-n", "0"), "-n"), (("--executor", "abacus"), "an executor among")], ids=str)
def test_mistakes(plan, args, said):
    code, out, err = plan(*args)
    assert code == 2 and out == "" and said in err
