"""`verify` and its command: what they check, and that they catch methods that break a law."""

import json

import pytest
from typer.testing import CliRunner

from ramify.cli.main import app
from ramify.engine import Extend, Fork, Prompt, Reward, Score
from ramify.engine.request import Search
from ramify.errors import OptionError
from ramify.exact.verify import Report, Row, verify
from ramify.search import METHODS, best_of_n, sample, self_consistency, speculative_rejection, treebon

SMALL = {"length": 2, "tables": 1}


@pytest.mark.parametrize(("search", "options", "known"), [
    (sample, {"n": 2}, {"the law is the policy's"}),
    (best_of_n, {"n": 2}, {"the law is the stated one"}),
    (best_of_n, {"n": 2, "top_p": 0.8, "stop": ("ba",)}, {"the law is the stated one"}),
    (self_consistency, {"n": 2}, {"the law is the plain vote's"}),
    (self_consistency, {"n": 2, "beta": 0.5}, {"the law for a huge beta is the plain vote's"}),
    (speculative_rejection, {"n": 2, "alpha": 0.5},
     {"alpha = 0: the law is Best-of-n's", "alpha = 0: Best-of-n draw for draw"}),
    (treebon, {"n": 2, "children": 2, "layers": 2},
     {"layers = 1: the law is Best-of-n's", "layers = 1: Best-of-n draw for draw",
      "children = 1: the law is Best-of-n's"}),
])
def test_every_method_passes(search, options, known):
    report = verify(search, options, **SMALL)
    assert report.ok, report.verdict
    checks = [row.check for row in report.rows]
    assert known == {check for check in checks if "law is" in check or "Best-of-n" in check or "huge" in check}
    assert len(checks) == len(set(checks)) == 7 + len(known)
    assert report.paths > 5


def broken_best_of_n(prompt: Prompt, *, reward: Reward, n: int = 2) -> Search:
    alive = yield Fork(prompt, n)
    yield Extend(alive)
    scores = yield Score(alive, reward)
    return alive[scores.index(min(scores))]


def one_stream(prompt, *, reward, n=2):
    alive = yield Fork(prompt, n)
    for one in alive:
        one.stream = alive[0].stream
    yield Extend(alive)
    yield Score(alive, reward)
    return alive.best()


RUNS = []


def company(prompt, *, n=2):
    """What it returns depends on what ran before."""
    alive = yield Fork(prompt, n)
    yield Extend(alive)
    RUNS.append(prompt)
    return alive[len(RUNS) % n]


def failed(search, **options):
    return {row.check for row in verify(search, options, **SMALL).rows if not row.ok}


def test_a_method_of_ones_own_gets_the_general_checks():
    assert failed(broken_best_of_n) == set()  # it claims no law; it sums to 1 and repeats
    assert len(verify(broken_best_of_n, **SMALL).rows) == 7


def test_a_wrong_law_is_caught(monkeypatch):
    monkeypatch.setattr("ramify.exact.verify.best_of_n", broken_best_of_n)
    assert failed(broken_best_of_n, n=2) == {"the law is the stated one"}


def test_a_shared_stream_is_caught():
    assert failed(one_stream) == {"no random number is used twice"}


def test_a_result_that_depends_on_its_company_is_caught():
    caught = failed(company)
    assert "a batch of 16 equals 16 singles" in caught or "the prefix cache changes nothing" in caught


def test_a_report_says_what_failed():
    rows = [Row("good", 1e-12, 1e-9), Row("bad", 2.0, 0)]
    report = Report("mine", "none", {"n": 2}, 3, 2, 0, 4, 1234, rows)
    assert not report.ok and report.verdict == "mine FAILS 1 of 2 checks on 4 random tables (1,234 paths): bad."
    assert report.to_dict()["rows"][1] == {"check": "bad", "error": 2.0, "limit": 0, "predicted": None, "found": None,
                                           "ok": False}


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError):
        verify(treebon, {"n": 2, "children": 3}, **SMALL)


def command(*args):
    return CliRunner().invoke(app, ["verify", "--length", "2", "--tables", "1", *args])


@pytest.mark.parametrize("method", ["sample", "treebon"])
def test_the_command_reports_in_json(method):
    told = command("--method", method, "--n", "2", "--json")
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert report["ok"] and report["method"] == method and report["options"]["n"] == 2
    assert all(row["ok"] and row["error"] <= row["limit"] for row in report["rows"])


def test_the_command_prints_a_table_and_a_verdict():
    told = command("--method", "best-of-n", "--set", "temperature=0.5")
    assert told.exit_code == 0
    assert "the law is the stated one" in told.stdout and "best_of_n passes all 8 checks" in told.stdout


def test_the_exit_code_is_one_when_a_check_fails(monkeypatch):
    monkeypatch.setitem(METHODS, "best_of_n", broken_best_of_n)
    monkeypatch.setattr("ramify.exact.verify.best_of_n", broken_best_of_n)
    told = command()
    assert told.exit_code == 1
    assert "FAILS" in told.stdout


@pytest.mark.parametrize("args", [
    ["--method", "nonsense"], ["--set", "colour=red"], ["--vocabulary", "9"], ["--length", "0"], ["--tables", "0"],
    ["--n", "0"],
])
def test_a_users_mistake_is_told(args):
    assert isinstance(command(*args).exception, OptionError)
