"""`ramify theory`: the same numbers as in Python, one JSON object for machines, mistakes in one line."""

import json
import math
import subprocess
import sys

import pytest

import ramify as package
from ramify.theory import best_of_n, calibration, speculative_cost, tilt, treebon, voting
from ramify.theory import speculative_rejection as sr
from ramify.theory.law import empirical_law, finite_law

LEVELS = ("--levels", "0:0.7,1:0.2,3:0.1")
LAW = finite_law([0, 1, 3], [0.7, 0.2, 0.1])
COMMANDS = ("bon", "kl", "speculative-rejection", "treebon", "tilt", "vote", "infalign", "speculative", "rejections",
            "pareto")
PAIR = ("--draft", "0.5,0.3,0.2", "--target", "0.2,0.3,0.5")


@pytest.fixture
def ask(ramify):
    """The JSON object of a command, after its table said something too."""

    def call(*args):
        code, shown, err = ramify("theory", *args)
        assert (code, err) == (0, "") and shown.strip().endswith(".") and "nan" not in shown
        code, out, err = ramify("theory", *args, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


@pytest.fixture
def samples(tmp_path):
    """Two prompts, four answers each, with verdicts."""
    path = tmp_path / "rewards.jsonl"
    rows = [{"prompt": prompt, "reward": reward, "correct": reward > 1}
            for prompt, rewards in (("a", [0, 1, 1, 2]), ("b", [5, 4, 4, 0.5])) for reward in rewards]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_bon_without_a_law_is_bounds(ask):
    rows = ask("bon", "-n", "1,16")["rows"]
    assert [row["n"] for row in rows] == [1, 16]
    assert rows[1] == {"n": 16, "kl_bound": math.log(16) - 15 / 16, "win_rate_bound": 16 / 17}


def test_bon_with_a_law_is_exact(ask):
    told = ask("bon", "--n", "4,2.5", *LEVELS)
    assert told["policy_reward"] == LAW.mean and told["kl_ceiling"] == best_of_n.kl_ceiling(LAW)
    for row in told["rows"]:
        assert row["reward"] == best_of_n.expected_reward(LAW, row["n"])
        assert row["kl"] == best_of_n.kl(LAW, row["n"]) and row["win_rate"] == best_of_n.win_rate(LAW, row["n"])
        assert row["optimum_reward"] > row["reward"]


def test_bon_from_samples_is_unbiased_and_has_intervals(ask, samples):
    told = ask("bon", "--n", "1,2", "--rewards", samples)
    assert (told["prompts"], told["samples"]) == (2, 8)
    pools = ([0, 1, 1, 2], [5, 4, 4, 0.5])
    for row in told["rows"]:
        rewards = [best_of_n.estimate_smaller_n(pool, pool, row["n"]) for pool in pools]
        verdicts = [best_of_n.estimate_smaller_n(pool, [r > 1 for r in pool], row["n"]) for pool in pools]
        assert row["reward"] == sum(rewards) / 2 and (row["reward_low"], row["reward_high"]) == tuple(rewards)
        assert row["accuracy"] == sum(verdicts) / 2
        assert row["kl_plug_in"] == sum(best_of_n.kl(empirical_law(pool), row["n"]) for pool in pools) / 2
    assert told["rows"][1]["pass_at_n"] == pytest.approx((best_of_n.pass_at_k(1, 4, 2) + 1) / 2, abs=1e-12)


def test_results_of_generate_are_samples(ask, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"candidates": [{"reward": 1.0}, {"reward": 3}]}\n\n{"candidates": [{"reward": 2}]}\n')
    told = ask("bon", "--n", "1", "--rewards", path)
    assert (told["prompts"], told["samples"], told["rows"][0]["reward"]) == (2, 3, 2.0)
    path.write_text("1\n2\n2\n")
    assert ask("tilt", "--rewards", path, "--n", "2")["policy_reward"] == pytest.approx(5 / 3)


def test_kl_sharpens_with_what_is_known(ask):
    plain, top, exact = (ask("kl", "--n", "8", *more) for more in ((), ("--top", "0.1"), LEVELS))
    assert plain["rows"][0] == {"n": 8, "kl_bound": best_of_n.kl_bound(8), "win_rate_bound": 8 / 9}
    assert top["rows"][0]["kl_bound_given_top"] == best_of_n.kl_bound(8, 0.1) < best_of_n.kl_bound(8)
    assert exact["rows"][0]["kl"] == best_of_n.kl(LAW, 8) < exact["rows"][0]["kl_bound_given_top"]


def test_speculative_rejection(ask):
    told = ask("speculative-rejection", "--n", 64, "--alpha", 0.5, "--max-tokens", 256, "--first-round", 32,
               "--prompt-tokens", 10, "--target-params", "1e3", "--reward-params", "1e2")
    plan = sr.schedule(64, 0.5, 256, 32)
    assert [row["live"] for row in told["rows"]] == [64, 32, 16, 8]
    assert told["decode_tokens"] == plan.decode_tokens == told["closed_form_tokens"] == told["continuous_tokens"]
    assert told["tokens"] == {"target": 5130 - 64, "reward": 5130}
    assert told["tokens_reread"]["reward"] == plan.reward_tokens(10, reuse=False)
    assert told["flops"] == 2 * (5066 * 1000 + 5130 * 100)
    assert told["flops_best_of_n"] == 2 * ((64 * 255 + 10) * 1000 + (64 * 256 + 10) * 100)
    chunked = ask("speculative-rejection", "--chunk", "100", "--rule", "round")
    assert [(row["end"], row["live"]) for row in chunked["rows"]] == [(100, 16), (200, 8), (256, 4)]
    assert "closed_form_tokens" not in chunked and "flops" not in chunked


def test_treebon(ask):
    told = ask("treebon", "--n", 8, "--layers", 4, "--children", 2, "--max-tokens", 32, "--prompt-tokens", 5,
               "--target-params", 1, "--reward-params", 1, "--scorer-params", 1)
    tree = treebon.tree(8, 4, 2, 32)
    assert [row["tokens"] for row in told["rows"]] == [64] * 4 and told["decode_tokens"] == 256
    assert told["tokens"] == {"target": 261 - 20, "scorer": tree.scorer_tokens(5), "reward": 261}
    assert told["tokens_reread"]["scorer"] == tree.scorer_tokens(5, reuse=False)
    assert told["flops"] == 2 * sum(told["tokens"].values()) and told["kl_bound"] == treebon.kl_bound(8, 4, 2)


@pytest.mark.parametrize(("method", "command", "options"), [
    ("best_of_n", "speculative-rejection", {"n": 6, "alpha": 0.0}),
    ("speculative_rejection", "speculative-rejection", {"n": 10, "alpha": 0.3}),
    ("speculative_rejection", "speculative-rejection", {"n": 9, "alpha": 0.7, "chunk": 5}),
    ("treebon", "treebon", {"n": 8, "layers": 3, "children": 2}),
    ("treebon", "treebon", {"n": 7, "layers": 4, "children": 3}),
])
def test_the_ledger_of_a_real_run_agrees(ask, model, reward, method, command, options):
    """Forward tokens of the target, when nobody stops early and everybody pays for what is said alike."""
    own = {name: value for name, value in options.items() if method != "best_of_n" or name == "n"}
    llm = package.load(model, reward=reward, dedupe=False)
    usage = llm.generate("abc d", method, max_tokens=18, ignore_eos=True, **own).usage.target
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    told = ask(command, *flags, "--max-tokens", 18, "--prompt-tokens", usage.prefill)
    fed = usage.prefill + usage.decode + usage.recomputed
    assert fed == told["tokens"]["target"]
    assert fed != usage.prefill + told["decode_tokens"]  # the broken twin feeds every answer's last token too


def test_tilt(ask):
    told = ask("tilt", *LEVELS, "--beta", "0.5", "--kl", "0,0.5,9", "--n", "4")
    beta, base, half, ceiling, bon = told["rows"]
    assert (beta["kl"], beta["reward"]) == tilt.tilt_point(LAW, 0.5)
    assert base["beta"] is None and base["reward"] == pytest.approx(LAW.mean, abs=1e-12)
    assert half["reward"] == tilt.optimum_reward(LAW, 0.5) and half["kl"] == pytest.approx(0.5, abs=1e-12)
    assert (ceiling["beta"], ceiling["kl"], ceiling["reward"]) == (0, best_of_n.kl_ceiling(LAW), 3)
    assert bon["gap"] == pytest.approx(tilt.gap_to_best_of_n(LAW, 4), abs=1e-12)


def test_vote(ask, ramify):
    told = ask("vote", "--probs", "0.4,0.35,0.25", "--n", "16")
    assert told["rows"][0]["vote_correct"] == voting.majority_accuracy([0.4, 0.35, 0.25], 16)
    assert told["rows"][0]["pass_at_n"] == best_of_n.pass_at_n(0.4, 16) and told["limit_winners"] == [0]
    wrong = ("vote", "--probs", "0.4,0.35,0.25", "--correct", "1")
    assert "loses to answer 0" in ramify("theory", *wrong)[1]
    assert ask(*wrong, "--weights", "1,2,1")["limit_winners"] == [1]
    assert ask("vote", "--probs", "0.5,0.5")["limit_winners"] == [0, 1]


def test_infalign(ask):
    base, plain, aware = ask("infalign", "--n", "3", "--beta", "0.2", "--points", "200")["rows"]
    law = calibration.grid(200)
    exact = calibration.win_rate(law, calibration.aligned_law(law, 3, 0.2), 3)
    assert base["win_rate_best_of_n"] == pytest.approx(0.5, abs=1e-12) and plain["kl"] == pytest.approx(aware["kl"])
    assert aware["win_rate_best_of_n"] == exact > plain["win_rate_best_of_n"]
    assert plain["win_rate_single"] > aware["win_rate_single"]


def test_speculative(ask):
    told = ask("speculative", "--acceptance", 0.8, "--length", "4,8", "--cost", 0.1, "--operations", 0.05)
    assert [row["length"] for row in told["rows"]] == [4, 8] and told["best"][0]["length"] == 6
    first = told["rows"][0]
    assert first["tokens_per_call"] == pytest.approx(3.3616) and first["speedup"] == pytest.approx(3.3616 / 1.4)
    assert first["operations"] == pytest.approx(5.2 / 3.3616)
    assert first["rejections_per_100_tokens"] == pytest.approx(100 * (1 - 0.8**4) / 3.3616)
    assert told["rejections_per_100_tokens_at_most"] == pytest.approx(20)
    assert ask("speculative", "--acceptance", 0.3, "--cost", 0.4)["best"][0] == {
        "rows": 1, "length": 0, "speedup": 1, "longest_tried": 256}


def test_speculative_with_rows(ask, ramify):
    measured = {1: 0.01, 64: 0.01, 128: 0.02, 1024: 0.16}
    told = ask("speculative", "--acceptance", 0.8, "--length", 1, "--rows", "1,16,64",
               "--seconds", "1:0.01,64:0.01,128:0.02,1024:0.16")
    assert [(best["length"], best["longest_tried"]) for best in told["best"]] == [(6, 1023), (3, 63), (0, 15)]
    short = ramify("theory", "speculative", "--acceptance", 0.8, "--seconds", "1:0.01,5:0.01")[1]
    assert "Drafts of 4 are the fastest, 2.40 times plain decoding among the lengths tried." in short
    for row in told["rows"]:
        assert row["speedup"] == speculative_cost.batched_speedup(0.8, 1, 0.1, row["rows"], measured)


def test_rejections(ask):
    told = ask("rejections", *PAIR, "--tokens", 50, "--drafts", "1,2,3")
    assert [row["rejections"] for row in told["rows"]][:2] == pytest.approx([15, 14.11036], abs=5e-6)
    assert [row["accepts_without_replacement"] for row in told["rows"]] == pytest.approx([0.7, 0.82, 1])
    two = told["rows"][1]
    assert (two["accepts_independent"], two["accepts_k_sequential"], two["bound_for_independent"]) == pytest.approx(
        (0.76, 0.791355287, 0.86))
    assert told["tv"] == pytest.approx(0.3) and 11 < told["rejections_with_endless_drafts"] < 12
    many = ",".join(["0.01"] * 100)
    assert ask("rejections", "--draft", many, "--target", many, "--drafts", 9)["rows"][0][
        "accepts_without_replacement"] is None


def test_pareto(ask):
    told = ask("pareto", *PAIR, "--epsilon", "0.05,0.2", "--lenience", "1")
    assert [(row["rejections_per_100_tokens"], row["loss"]) for row in told["rows"]] == [
        pytest.approx((25, 0.05)), pytest.approx((10, 0.2)), pytest.approx((30, 0))]
    assert told["tv"] == pytest.approx(0.3)


@pytest.mark.parametrize(("args", "said"), [
    (("bon", "--n", "0"), "n of at least 1"),
    (("bon", "--n", "four"), "finite numbers for --n; got 'four'"),
    (("bon", "--n", "nan"), "finite numbers"),
    (("bon", "--n", ""), "a number of candidates"),
    (("bon", "--levels", "0,1"), "reward:probability pairs"),
    (("bon", "--levels", "0:0.5,1:0.4"), "sum to 1"),
    (("bon", "--rewards", "nowhere.jsonl"), "a readable file"),
    (("bon", "--rewards", "x", "--levels", "0:1"), "drop --rewards"),
    (("kl", "--top", "0.5", "--levels", "0:1"), "one of these options"),
    (("kl", "--top", "1.5"), "in [0, 1]"),
    (("speculative-rejection", "--alpha", "1"), "alpha"),
    (("speculative-rejection", "--chunk", "0"), "chunk to be a whole number"),
    (("speculative-rejection", "--chunk", "9", "--first-round", "9"), "drop --chunk"),
    (("speculative-rejection", "--target-params", "1e9"), "parameter count of the reward model"),
    (("treebon", "--children", "20"), "at most n = 16 children"),
    (("tilt", "--n", "4"), "a law of the reward"),
    (("tilt", *LEVELS), "--kl, --beta, --n"),
    (("tilt", *LEVELS, "--kl", "-1"), "KL of 0 or more"),
    (("vote", "--probs", "0.4,0.6", "--correct", "2"), "an answer's place"),
    (("vote", "--probs", "0.4,0.6", "--n", "2.5"), "whole numbers for --n"),
    (("infalign", "--beta", "0"), "beta above 0"),
    (("speculative", "--acceptance", "1.2"), "acceptance in [0, 1]"),
    (("speculative", "--acceptance", "0.8", "--length", "2.5"), "whole numbers for --length"),
    (("speculative", "--acceptance", "0.8", "--length", "-1"), "whole number of at least 0"),
    (("speculative", "--acceptance", "0.8", "--length", ""), "a number for --rows and --length"),
    (("speculative", "--acceptance", "0.8", "--cost", "-1"), "cost of 0 or more"),
    (("speculative", "--acceptance", "0.8", "--rows", "8"), "--seconds for several rows"),
    (("speculative", "--acceptance", "0.8", "--rows", "8", "--seconds", "1:0.1,16:0.2"), "between the measured 1"),
    (("speculative", "--acceptance", "0.8", "--seconds", "1,2"), "tokens:seconds pairs"),
    (("rejections", *PAIR, "--drafts", "0"), "drafts to be a whole number"),
    (("rejections", *PAIR, "--drafts", ""), "a number of drafts"),
    (("rejections", "--draft", "0.5,0.5", "--target", "1"), "over the same tokens"),
    (("rejections", "--draft", "", "--target", "1"), "at least one probability"),
    (("pareto", *PAIR, "--epsilon", ""), "a rule to judge"),
    (("pareto", *PAIR, "--lenience", "0"), "a lenience above 0"),
])
def test_mistakes_are_one_line(ramify, args, said):
    code, out, err = ramify("theory", *args)
    assert code == 2 and out == "" and said in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(("text", "said"), [
    ("", "at least one reward"),
    ("1\n{oops", "line 2"),
    ('{"reward": null}', "a finite reward for every answer"),
    ('{"candidates": 3}', "a finite reward for every answer"),
    ("NaN", "a finite reward for every answer"),
    ("1" + "0" * 400, "a finite reward for every answer"),
    ('{"reward": 1, "correct": "yes"}', "to be true, false, 1 or 0"),
    ('{"reward": 1, "correct": true}\n2', "1 of 2"),
    ("1\n2", "at most the 2 samples"),
])
def test_bad_lines_are_named(ramify, tmp_path, text, said):
    path = tmp_path / "rewards.jsonl"
    path.write_text(text)
    code, out, err = ramify("theory", "bon", "--n", "3", "--rewards", path)
    assert code == 2 and out == "" and said in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_fits_a_terminal(ramify, monkeypatch, command):
    code, out, _ = ramify("theory", *command, "--help")
    assert code == 0 and len(out.splitlines()) <= 36
    assert all(name in out for name in COMMANDS) or command


def test_nothing_heavy_is_imported_before_it_is_needed():
    """The help of `ramify` must not wait for numpy; asking for it inside a command is the twin that shows it would."""
    look = "import sys, ramify.cli.theory{}; print('numpy' in sys.modules)"
    told = [subprocess.run([sys.executable, "-c", look.format(more)], capture_output=True, text=True).stdout.strip()
            for more in ("", ", ramify.theory.law")]
    assert told == ["False", "True"]
