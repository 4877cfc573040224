"""`ramify bench search` as a user runs it."""

import json

import pytest

from ramify.minis.tokenizer import MAX_ANSWER

BASE = ("bench", "search", "--n", "2,4", "--max-tokens", "6")


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{a} and {a}?", "answer": 2 * a}) + "\n" for a in range(3)))
    return path


@pytest.fixture
def bench(ramify, model, reward, problems):
    def call(*args, reward=reward):
        return ramify(*BASE, "--model", model, "--reward", reward, "--problems", problems, *args)

    return call


def test_every_method_at_every_width(bench):
    code, out, _ = bench("--json", "--set", "treebon.children=2")
    report = json.loads(out)
    assert code == 0 and report["problems"] == 3
    cells = [(row["method"], row["n"]) for row in report["rows"]]
    assert cells == [("sample", 1), *((method, n) for method in ("self_consistency", "best_of_n",
                                                                 "speculative_rejection", "treebon") for n in (2, 4))]
    assert report["reference"] == {"method": "best_of_n", "n": 4}
    assert all(row["flops"]["total"] > 0 and 0 <= row["accuracy"] <= 1 for row in report["rows"])
    assert all(row["reward"] is not None and "head_to_head" in row for row in report["rows"])
    assert {entry["method"] for entry in report["to_reach"]} == {method for method, _ in cells}
    assert report["command"].startswith("ramify bench search --n 2,4")


def test_table_and_pictures(bench, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = bench("--methods", "sample,best-of-n", "--plot", tmp_path / "fig")
    assert code == 0 and "Best-of-4 solves" in out and "printed by: ramify bench search" in out
    assert (tmp_path / "fig.png").stat().st_size > 10_000 and "fig.html" in err
    assert "<svg" in (tmp_path / "fig.html").read_text()


def test_results_are_kept_and_resumed(bench, tmp_path):
    out = tmp_path / "results.jsonl"
    args = ("--methods", "best_of_n", "--out", out, "--json")
    _, first, _ = bench(*args)
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 3 * 3  # the setup, two widths and the pool
    out.write_text("".join(lines[:5]) + lines[5][:20])  # killed in the middle of a line
    code, second, _ = bench(*args)
    assert code == 0 and len(out.read_text().splitlines()) == len(lines)

    def exact(text):
        return [{name: value for name, value in row.items() if not name.endswith("_seconds")}
                for row in json.loads(text)["rows"]]

    assert exact(first) == exact(second)
    before = out.read_bytes()
    assert bench(*args)[0] == 0 and out.read_bytes() == before  # nothing was left to do
    code, _, err = bench(*args, "--seed", 1)
    assert code == 2 and "another seed" in err and out.read_bytes() == before


def test_an_interrupt_keeps_what_is_finished(bench, tmp_path, monkeypatch):
    from ramify.trace import RowWriter

    out, write = tmp_path / "results.jsonl", RowWriter.write

    def interrupted(self, rows):
        write(self, rows)
        if len(out.read_text().splitlines()) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RowWriter, "write", interrupted)
    code, _, err = bench("--methods", "best_of_n", "--out", out)
    assert code == 130 and "goes on from there" in err and len(out.read_text().splitlines()) == 3


def test_widths_of_one_method_and_another_reference(bench):
    code, out, _ = bench("--methods", "best_of_n,speculative-rejection", "--set", "speculative_rejection.n=3,8",
                         "--set", "speculative_rejection.first=2", "--reference", "2", "--pool", "0", "--json")
    report = json.loads(out)
    assert code == 0 and report["reference"]["n"] == 2
    assert [row["n"] for row in report["rows"]] == [2, 4, 3, 8]
    assert report["rows"][-1]["options"] == {"first": 2} and "head_to_head" not in report["rows"][0]


def test_no_reward_is_enough_for_methods_that_need_none(bench):
    code, out, _ = bench("--methods", "sample,self_consistency", "--json", reward="none")
    report = json.loads(out)
    assert code == 0 and report["reference"] is None and {row["reward"] for row in report["rows"]} == {None}


@pytest.mark.parametrize(("args", "message"), [
    (("--methods", "best_of_m"), "a method among"),
    (("--n", "4,0"), "numbers of candidates"),
    (("--n", "four"), "numbers of candidates"),
    (("--problems", "0"), "at least 1 problem"),
    (("--problems", "nowhere.jsonl"), "nowhere.jsonl"),
    (("--set", "treebon.sausage=3"), "sausage"),
    (("--set", "treebonn.layers=3"), "before the dot"),
    (("--set", "treebon.layers=x"), "a whole number for layers"),
    (("--temperature", "-1"), "temperature"),
    (("--reference", "5"), "best_of_n at 2, 4"),
    (("--methods", "sample", "--pool", "4"), "for --pool"),
])
def test_mistakes(bench, args, message):
    code, out, err = bench(*args)
    assert code == 2 and out == "" and message in err


def test_the_default_length_holds_every_answer_of_the_embedded_problems(ramify):
    _, out, _ = ramify("bench", "search", "--help")
    assert f"default: {MAX_ANSWER}" in out
