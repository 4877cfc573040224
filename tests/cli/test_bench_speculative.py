"""`ramify bench speculative` as a user runs it."""

import json
import shutil

import pytest

BASE = ("bench", "speculative", "--max-tokens", "8", "--repeats", "2")


@pytest.fixture(scope="module")
def draft(model, tmp_path_factory):
    """The target itself under another name: it accepts everything."""
    folder = tmp_path_factory.mktemp("drafts") / "draft"
    shutil.copytree(model, folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{a} and {a}?"}) + "\n" for a in range(3)))
    return path


@pytest.fixture
def bench(ramify, model, draft, prompts):
    def call(*args, draft=draft, prompts=prompts):
        return ramify(*BASE, "--model", model, "--draft", draft, "--prompts", prompts, *args)

    return call


def test_json(bench):
    code, out, _ = bench("--json", "--rows", "2", "--lengths", "1,3,measured", "--verifiers", "token,coupled",
                         "--tree", "2x1")
    report = json.loads(out)
    assert code == 0 and report["prompts"] == 3 and report["rows"] == 2
    assert [(cell["verifier"], cell["length"], cell["tree"]) for cell in report["cells"]] == [
        ("token", 1, ""), ("coupled", 1, ""), ("token", 3, ""), ("coupled", 3, ""), ("coupled", None, ""),
        ("coupled", None, "2x1")]
    assert report["text"]["acceptance"] == pytest.approx(1) and report["cells"][2]["num_rejections"] == 0
    assert report["command"].startswith("ramify bench speculative --max-tokens 8")


def test_the_sentence_says_the_numbers_of_the_json(bench):
    report = json.loads(bench("--json", "--lengths", "1,2")[1])
    best, costs = report["best"], report["costs"]
    assert best in report["cells"]
    assert f"acceptance {report['text']['acceptance']:.2f}" in report["sentence"]
    assert f"a draft step costs {costs['draft_over_target']:.2f} of a target step at 1 row:" in report["sentence"]
    assert f"draft {best['length']}, " in report["sentence"]
    assert f"expected {best['expected_speedup']:.1f}x, measured {best['speedup']:.1f}x" in report["sentence"]


def test_table_and_picture(bench, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = bench("--lengths", "1,2,measured", "--plot", tmp_path / "fig")
    assert code == 0 and "measured (expected)" in out and "block, 2" in out
    assert "Acceptance by position, block, 2: 1.00 1.00" in out and "printed by: ramify bench speculative" in out
    assert "not smaller than the target" in err and (tmp_path / "fig.png").stat().st_size > 10_000


@pytest.mark.parametrize("draft", ["ngram", "suffix"])
def test_looked_up_drafts_are_measured_without_an_expectation(bench, draft):
    code, out, _ = bench("--json", "--lengths", "2", "--verifiers", "token", draft=draft)
    report = json.loads(out)
    assert code == 0 and report["text"] is None and report["cells"][0]["expected_speedup"] is None
    assert "measured" in report["sentence"] and "acceptance" not in report["sentence"]


def test_embedded_prompts_by_their_number(bench):
    code, out, _ = bench("--json", "--lengths", "1", "--temperature", "0", prompts="2")
    assert code == 0 and json.loads(out)["prompts"] == 2


@pytest.mark.parametrize(("args", "said"), [
    (("--lengths", "1,x"), "draft lengths of at least 1"), (("--lengths", "0"), "draft lengths of at least 1"),
    (("--lengths", ""), "a length or a tree"), (("--lengths", "65"), "a draft_length between 0 and 64"),
    (("--verifiers", "magic"), "a verifier among"), (("--tree", "0x2"), "a tree such as"),
    (("--verifiers", "greedy"), "temperature=0"), (("--rows", "0"), "rows"), (("--repeats", "0"), "repeats"),
    (("--max-tokens", "0"), "max_tokens"), (("--temperature", "-1"), "temperature")], ids=str)
def test_mistakes_end_with_2(bench, args, said):
    code, out, err = bench(*args)
    assert code == 2 and out == "" and said in err


@pytest.mark.parametrize(("options", "said"), [
    ({"prompts": "0"}, "at least 1 prompt"), ({"prompts": "/nowhere.jsonl"}, "/nowhere.jsonl"),
    ({"draft": "/nowhere"}, "/nowhere")], ids=str)
def test_what_is_not_there_ends_with_2(bench, options, said):
    code, out, err = bench(**options)
    assert code == 2 and out == "" and said in err
