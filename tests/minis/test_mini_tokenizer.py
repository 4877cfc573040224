"""The tokenizer: any text survives, digits stay single, and the template owns the special tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ramify.minis.problems import problems
from ramify.minis.tokenizer import (
    CHAT_TEMPLATE,
    MAX_ANSWER,
    SPECIAL,
    answer_ids,
    prompt_ids,
    save_tokenizer,
    train_tokenizer,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(documents=2000)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_survives(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=True).ids
    if not any(special in text for special in SPECIAL):
        assert tokenizer.decode(ids) == text
        assert min(ids, default=len(SPECIAL)) >= len(SPECIAL)  # nothing is added around it


def test_digits_are_single_tokens(tokenizer):
    assert tokenizer.encode("1234567890").tokens == list("1234567890")


def test_special_tokens_come_first_and_differ(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]


def test_solutions_fit_the_longest_answer(tokenizer):
    lengths = [len(answer_ids(tokenizer, problem.solution)) for problem in problems("train", 2000)]
    assert max(lengths) <= MAX_ANSWER


def render(messages, generate):
    environment = ImmutableSandboxedEnvironment()
    return environment.from_string(CHAT_TEMPLATE).render(
        messages=messages, add_generation_prompt=generate, bos_token="<|bos|>", eos_token="<|eos|>"
    )


def test_template_renders_what_training_saw(tokenizer):
    user, assistant = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "#### 3"}
    assert tokenizer.encode(render([user], True)).ids == prompt_ids(tokenizer, "How many?")
    whole = prompt_ids(tokenizer, "How many?") + answer_ids(tokenizer, "#### 3")
    assert tokenizer.encode(render([user, assistant], False)).ids == whole


def test_saved_files_agree(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert config["pad_token"] != config["eos_token"]
    for name in ("bos", "eos", "pad"):
        assert tokenizer.token_to_id(config[f"{name}_token"]) == generation[f"{name}_token_id"]
