"""The embedded draft under other tokenizers: renumbered tokens lose nothing, finer ones never change the text."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import ramify
from ramify.errors import OptionError
from ramify.minis import problems
from ramify.minis.evaluate import WEIGHTS

ASKED = [problem.question for problem in problems("evaluation", 6, 3)]
GREEDY = {"temperature": 0, "max_tokens": 80, "n": 1, "draft_length": 6}


def rewritten(folder, change):
    """A copy of the draft whose tokenizer.json and embedding were changed in place."""
    shutil.copytree(WEIGHTS / "mini-math-draft", folder)
    path, weights = folder / "tokenizer.json", load_file(folder / "model.safetensors")
    tokenizer = json.loads(path.read_text())
    weights["model.embed_tokens.weight"] = change(tokenizer, weights["model.embed_tokens.weight"])
    path.write_text(json.dumps(tokenizer))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def renumbered(tokenizer, embedding_VD):
    """Every token but the special ones gets another id, and so does its row."""
    special = {token["id"] for token in tokenizer["added_tokens"]}
    free = [at for at in range(len(embedding_VD)) if at not in special]
    ids = dict(zip(free, random.Random(0).sample(free, len(free)), strict=True))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.update({text: ids.get(at, at) for text, at in vocabulary.items()})
    order = torch.arange(len(embedding_VD))
    order[[ids[at] for at in free]] = torch.tensor(free)
    return embedding_VD[order].contiguous()


def finer(tokenizer, embedding_VD):
    """The last third of the merges is forgotten: long words fall into parts."""
    merges = tokenizer["model"]["merges"]
    del merges[2 * len(merges) // 3 :]
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["never written"] = vocabulary.pop(max(vocabulary, key=vocabulary.get))
    return embedding_VD


@pytest.fixture(scope="module")
def answers():
    """Plain ones, and what the draft gets accepted under the target's own tokenizer."""
    plain = ramify.load("mini-math", reward=None).generate(ASKED, "sample", temperature=0, max_tokens=80, n=1)
    own = ramify.load("mini-math", draft="mini-math-draft", reward=None).generate(ASKED, "sample", **GREEDY)
    return [result.text for result in plain], rate(own)


def rate(results):
    """Accepted of drafted tokens."""
    drafted, accepted = (sum(result.speculative[f"num_{name}draft_tokens"] for result in results)
                         for name in ("", "accepted_"))
    return accepted / drafted


@pytest.mark.parametrize("change", [renumbered, finer])
def test_greedy_text_is_that_of_plain_decoding(tmp_path, answers, change):
    plain, own = answers
    llm = ramify.load("mini-math", draft=rewritten(tmp_path / "other", change), reward=None)
    for options in (GREEDY, {**GREEDY, "draft_length": None}):
        results = llm.generate(ASKED, "sample", **options)
        assert [result.text for result in results] == plain
        assert not any(result.warnings for result in results)
    if change is renumbered:
        assert rate(llm.generate(ASKED, "sample", **GREEDY)) > own - 0.02


def test_sampling_is_refused_with_the_reason(tmp_path):
    llm = ramify.load("mini-math", draft=rewritten(tmp_path / "other", renumbered), reward=None)
    with pytest.raises(OptionError, match=r"temperature=0 .* another tokenizer.*no probability in the target's tokens"):
        llm.generate(ASKED[0], "sample", n=1)
    with pytest.raises(OptionError, match="verifier=greedy"):
        llm.generate(ASKED[0], "sample", n=1, temperature=0, verifier="block")
