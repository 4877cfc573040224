"""`verify` with a draft: every rule passes its checks, lossy ones tell their loss, and broken ones are caught."""

import json
import re

import pytest
from typer.testing import CliRunner

from ramify.cli.main import app
from ramify.errors import OptionError
from ramify.exact.verify import verify
from ramify.exact.verify_speculation import AT_LEAST
from ramify.search import best_of_n, sample, self_consistency, speculative_rejection, treebon
from ramify.speculative import verify_coupled
from ramify.speculative.speculation import VERIFIERS

ONE = {"length": 3, "tables": 1}
LENGTH, CHANCE = "the accepted length is the closed form's", "the chance that a draft stands is the closed form's"
ALWAYS = {
    "no random number is used twice", "the law sums to 1", "a batch of 16 equals 16 singles",
    "the prefix cache changes nothing", "blocks of 1 and of 16 tokens give the same",
    "a cache for one candidate gives the same", "reading equal texts once changes nothing",
    "coupled draws give the text of plain decoding",
    "temperature 0 gives the text of plain decoding"}
LOSSLESS = ALWAYS | {"the law is the one without a draft", "the law is the policy's"}


@pytest.mark.parametrize(("options", "known"), [
    ({}, {LENGTH}), ({"verifier": "token"}, {LENGTH}), ({"verifier": "recursive"}, {LENGTH}),
    ({"verifier": "traversal", "top_p": 0.8}, {LENGTH}), ({"verifier": "k_sequential", "temperature": 0.7}, {LENGTH}),
    ({"verifier": "coupled", "draft_length": 1}, {LENGTH}), ({"verifier": "greedy", "temperature": 0.0}, {LENGTH}),
    ({"tree": "2x1"}, {AT_LEAST}), ({"tree": "2", "draft_length": 1}, {CHANCE}),
    ({"tree": "2x1", "verifier": "recursive"}, {CHANCE}), ({"tree": "iid:2", "verifier": "k_sequential"}, {CHANCE}),
    ({"tree": "iid:2", "verifier": "coupled"}, {CHANCE}), ({"tree": "likely:2x2"}, {AT_LEAST}),
    ({"draft_stop": "entropy:0.8", "stop": ("ba",)}, set()), ({"draft_length": 0}, set()),
], ids=str)
def test_every_lossless_verifier_passes(options, known):
    report = verify(sample, {"n": 1, **options}, draft="table", **ONE, seed=len(str(options)))
    assert report.ok, report.verdict
    assert {row.check for row in report.rows} == LOSSLESS | known
    assert all(row.limit is not None for row in report.rows)
    assert all((row.found is not None) == (row.check in known) for row in report.rows)


def test_traversal_accepts_more_than_top_down_rejection():
    [row] = [row for row in verify(sample, {"n": 1, "tree": "2x1"}, draft="table", **ONE, seed=3).rows
             if row.check == AT_LEAST]
    assert row.found > row.predicted + 1e-3


def test_a_traversal_that_keeps_less_than_top_down_rejection_is_caught(monkeypatch):
    """The target's own draws are lossless, but drafts agree with them more rarely."""
    monkeypatch.setitem(VERIFIERS, "traversal", verify_coupled)
    assert AT_LEAST in failed(tree="2x1")


def test_the_draft_may_be_padded_to_another_width():
    """That of every second table is a token wider."""
    assert verify(sample, {"n": 1}, draft="table", length=4, tables=2, seed=5).ok


@pytest.mark.parametrize("draft", ["ngram", "suffix"])
@pytest.mark.parametrize("verifier", ["block", "token", "coupled"])
def test_look_ups_pass(draft, verifier):
    report = verify(sample, {"n": 1, "verifier": verifier}, draft=draft, **ONE)
    assert report.ok, report.verdict
    assert {row.check for row in report.rows} == LOSSLESS | {LENGTH}


@pytest.mark.parametrize(("search", "options", "known"), [
    (best_of_n, {}, {"the law is the stated one"}), (self_consistency, {}, {"the law is the plain vote's"}),
    (speculative_rejection, {"first": 1}, {"alpha = 0: the law is Best-of-n's", "alpha = 0: Best-of-n draw for draw"}),
    (treebon, {"children": 2, "layers": 2, "segment": 1},
     {"layers = 1: the law is Best-of-n's", "layers = 1: Best-of-n draw for draw",
      "children = 1: the law is Best-of-n's"})])
def test_every_search_keeps_its_law_while_it_speculates(search, options, known):
    report = verify(search, {"n": 2, "top_k": 2, **options}, draft="table", length=3, tables=1)
    assert report.ok, report.verdict
    assert {row.check for row in report.rows} == ALWAYS | known | {LENGTH, "the law is the one without a draft"}


LOSS = "lossy: distance from the law without a draft"


@pytest.mark.parametrize("options", [{"verifier": "lossy", "lenience": 0.3}, {"verifier": "typical"}], ids=str)
@pytest.mark.parametrize("search", [sample, best_of_n])
def test_a_lossy_verifier_tells_its_loss_and_passes(search, options):
    report = verify(search, {"n": 1, **options}, draft="table", length=4, tables=1, seed=2)
    assert report.ok and report.verdict.endswith("and is lossy.")
    rows = {row.check: row for row in report.rows}
    assert rows[LOSS].limit is None and rows[LOSS].error > 1e-3
    assert rows[LOSS].error == pytest.approx(rows[LOSS].predicted, abs=1e-12)
    assert "the law is the one that the lossy rule states" in rows and LENGTH in rows


def test_where_a_loss_is_not_known_it_is_measured():
    report = verify(sample, {"n": 1, "verifier": "typical", "tree": "2x1"}, draft="table", length=3, tables=1)
    rows = {row.check: row for row in report.rows}
    assert report.ok and rows[LOSS].predicted is None and rows[LOSS].error > 1e-3


def test_a_switch_between_two_models_is_measured():
    options = {"n": 1, "verifier": "trusted", "draft_stop": "mean:9", "draft_length": 2}
    report = verify(sample, options, draft="table", length=3, tables=1)
    rows = {row.check: row for row in report.rows}
    assert report.ok and rows[LOSS].error > 1e-3
    assert rows.keys() == ALWAYS - {"temperature 0 gives the text of plain decoding"} | {LOSS}


def failed(**options):
    return {row.check for row in verify(sample, {"n": 1, **options}, draft="table", length=4, tables=1).rows
            if not row.ok}


def test_a_wrong_residual_is_caught(monkeypatch):
    monkeypatch.setattr("ramify.speculative.verify.leftover", lambda q_V, p_V, share=1.0: (q_V, 1.0))
    assert failed(verifier="token") == {"the law is the policy's", "the law is the one without a draft"}


def test_a_verifier_that_keeps_too_little_is_caught(monkeypatch):
    """Rejecting everything is lossless; only the accepted length tells."""
    monkeypatch.setattr("ramify.speculative.verify_joint.ratio", lambda *_: 0.0)
    assert LENGTH in failed()


def test_a_lossy_rule_that_is_not_the_stated_one_is_caught(monkeypatch):
    monkeypatch.setattr("ramify.speculative.verify_relaxed.leftover", lambda q_V, p_V, share=1.0: (q_V, 1.0))
    assert failed(verifier="lossy", lenience=0.5) == {"the law is the one that the lossy rule states"}


@pytest.mark.parametrize(("options", "draft"), [
    ({}, "nonsense"), ({"verifier": "block"}, "none"), ({"tree": "beam:2x2"}, "table"),
    ({"verifier": "greedy"}, "table"), ({"tree": "2x1", "verifier": "block"}, "table"), ({"lenience": 0.5}, "table"),
    ({"tree": "2x1"}, "ngram")], ids=str)
def test_what_cannot_be_verified_is_refused(options, draft):
    with pytest.raises(OptionError):
        verify(sample, {"n": 1, **options}, draft=draft, **ONE)


def command(*args):
    return CliRunner().invoke(app, ["verify", "--method", "sample", "-n", "1", "--tables", "1", *args])


def test_the_command_reports_a_draft():
    told = command("--draft", "table", "--set", "verifier=token", "--json")
    report = json.loads(told.stdout)
    assert told.exit_code == 0 and report["draft"] == "table" and report["options"]["verifier"] == "token"
    assert {row["check"] for row in report["rows"]} == LOSSLESS | {LENGTH}


def test_the_command_tells_the_accepted_length_beside_its_closed_form():
    told = command("--draft", "table", "--set", "verifier=block")
    found, closed = re.search(rf"{LENGTH}: ([\d.]+) and ([\d.]+)\.", told.stdout).groups()
    assert 0 < float(found) == float(closed) < 2


def test_the_command_tells_a_loss_beside_the_predicted_one():
    told = command("--draft", "table", "--set", "verifier=lossy", "--set", "lenience=0.5")
    assert told.exit_code == 0 and "predicted" in told.stdout and "with drafts from a table" in told.stdout
