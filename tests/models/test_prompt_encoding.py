"""Prompts become the ids that transformers makes of them: chat templates, special tokens, no doubled BOS."""

import json

import pytest
from helpers_hf import byte_tokenizer, edited, save_llama
from tokenizers import AddedToken, processors

from ramify.errors import ModelError, PromptError
from ramify.models import Tokenizer

CHATML = """\
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' -}}
{% endif %}
"""
BRACKETS = """\
{{ bos_token }}
{%- for message in messages %}
  {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('roles must alternate') }}
  {%- endif %}
  {%- if message.role == 'user' %}[INST] {{ message.content | trim }} [/INST]
  {%- else %} {{ message.content }}{{ eos_token }}
  {%- endif %}
{%- endfor %}"""
HEADERS = """\
{%- set state = namespace(system='', turns=0) %}
{%- macro head(role) %}<|{{ role }}|>{% endmacro %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% set state.system = message.content %}{% continue %}{% endif %}
    {%- if state.turns > 2 %}{% break %}{% endif %}
    {%- set state.turns = state.turns + 1 %}
    {{- head(message.role) }}
    {% if message.role == 'assistant' %}
    {% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
    {% else %}
    {{ message | tojson(indent=1) }} {{ message.content | tojson }}
    {% endif %}
{%- endfor %}
{{ strftime_now('%Y') }} {{ state.system }} {{ tools is none }} {{ documents is none }}
{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}
"""
TEMPLATES = {"chatml": CHATML, "brackets": BRACKETS, "headers": HEADERS}
TURNS = [
    {"role": "user", "content": "  2 < 3 & 'é'?\n"},
    {"role": "assistant", "content": "Yes \"really\"."},
    {"role": "user", "content": "Then <|im_end|> it."},
]


def save_chat(folder, template=None, **special):
    """A tokenizer folder written by transformers, and its tokenizer there."""
    from transformers import PreTrainedTokenizerFast

    backend = byte_tokenizer(256)
    tokens = [AddedToken(text, special=True) for text in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")]
    backend.add_special_tokens(tokens)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template, **special
    )
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_chat_text_equals_transformers(name, add_generation_prompt, tmp_path):
    theirs = save_chat(tmp_path, TEMPLATES[name])
    expected = theirs.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert Tokenizer(tmp_path).render(TURNS, add_generation_prompt) == expected
    assert "Yes" in expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_ids_equal_transformers(name, tmp_path):
    theirs = save_chat(tmp_path, TEMPLATES[name])
    ours = Tokenizer(tmp_path)
    expected = theirs.apply_chat_template(TURNS, add_generation_prompt=True)["input_ids"]
    assert ours.encode_prompt(TURNS) == expected
    assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=True)
    one = theirs.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)["input_ids"]
    assert ours.encode_prompt("Hi") == one


def test_the_comparison_sees_other_block_trimming(tmp_path):
    """The broken twin: Jinja's defaults keep the newline after a block, and the templates above show it."""
    import jinja2

    theirs = save_chat(tmp_path, CHATML)
    plain = jinja2.Environment().from_string(CHATML).render(messages=TURNS, add_generation_prompt=True)
    assert plain != theirs.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "model")


def with_bos(folder, processor=False, **settings):
    """Give a folder the tokens <s> and </s>, ids 128 and 129, and a tokenizer_config.json."""
    backend = byte_tokenizer()
    backend.add_special_tokens(["<s>", "</s>"])
    if processor:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 128)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", **settings}))
    return Tokenizer(folder)


@pytest.mark.parametrize(("processor", "settings", "expected"), [
    (False, {}, False), (True, {}, True), (False, {"add_bos_token": True}, True),
    (True, {"add_bos_token": False}, False), (True, {"add_bos_token": None}, True),
])  # fmt: skip
def test_raw_text_begins_with_bos_if_the_settings_say_so(processor, settings, expected, folder):
    tokenizer = with_bos(folder, processor, **settings)
    assert tokenizer.encode_prompt("abc") == [128] * expected + tokenizer.encode("abc")
    assert 128 not in tokenizer.encode("abc")


def test_bos_is_never_doubled(folder):
    tokenizer = with_bos(folder, processor=True, add_bos_token=True)
    assert tokenizer.encode_prompt("<s>abc").count(128) == 1
    tokenizer.template = "{{ bos_token }}{{ messages[0].content }}"
    assert tokenizer.encode_prompt("abc") == [128, *tokenizer.encode("abc")]


def test_a_template_without_bos_gets_none(folder):
    tokenizer = with_bos(folder, processor=True, add_bos_token=True, chat_template="{{ messages[0].content }}")
    assert tokenizer.encode_prompt("abc") == tokenizer.encode("abc")


@pytest.mark.parametrize(("generation", "config", "expected"), [
    (None, 7, (7, 129)), ([5, 6], 7, (5, 6, 129)), (5, [7, 8], (5, 129)), (None, [7, 8], (7, 8, 129)),
    (None, None, (129,)),
])  # fmt: skip
def test_every_stated_end_counts(generation, config, expected, folder, tmp_path):
    target = edited(folder, tmp_path / "other", eos_token_id=config)
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert with_bos(target).eos_ids == expected


def test_special_tokens_are_strings_or_objects(folder):
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "x"}))
    tokenizer = with_bos(folder, eos_token={"content": "</s>", "special": True})
    assert tokenizer.special == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.bos_id == 128


def test_where_the_template_is_found(folder):
    many = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "listed"}]
    assert with_bos(folder).template is None
    assert with_bos(folder, chat_template="field").template == "field"
    assert with_bos(folder, chat_template=many).template == "listed"
    assert with_bos(folder, chat_template=many[:1]).template is None
    (folder / "chat_template.jinja").write_text("file")
    assert with_bos(folder, chat_template="field").template == "file"


def test_a_prompt_is_never_cut_or_padded(folder):
    backend = byte_tokenizer()
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    assert len(Tokenizer(folder).encode_prompt("abcdefgh")) == 8
    assert len(Tokenizer(folder).encode_prompt("ab")) == 2


def test_what_the_template_writes_after_an_answer(folder):
    chatml = with_bos(folder, chat_template=CHATML.replace("<|im_end|>", "</s>"))
    assert chatml.closing_ids == [129, *chatml.encode("\n")]
    (folder / "config.json").unlink()
    assert with_bos(folder).closing_ids == [129]


def test_fingerprint_is_that_of_the_vocabulary(folder, tmp_path):
    other = save_llama(tmp_path / "other")
    assert Tokenizer(folder).fingerprint == Tokenizer(other).fingerprint
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    assert '"!":0' in text.replace(" ", "")
    swapped = json.loads(text)
    vocab = swapped["model"]["vocab"]
    vocab["!"], vocab["#"] = vocab["#"], vocab["!"]
    (other / "tokenizer.json").write_text(json.dumps(swapped))
    assert Tokenizer(folder).fingerprint != Tokenizer(other).fingerprint


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt(prompt, folder):
    with pytest.raises(PromptError, match="empty"):
        Tokenizer(folder).encode_prompt(prompt)


def test_messages_need_a_template(folder):
    with pytest.raises(PromptError, match="chat template"):
        Tokenizer(folder).encode_prompt([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("messages", [[{"content": "Hi"}], ["Hi"], [{"role": "user"}, 3]])
def test_malformed_messages(messages, folder):
    with pytest.raises(PromptError, match="role"):
        with_bos(folder, chat_template=CHATML).render(messages)


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}",
    "{% for i in range(10**9) %}{% endfor %}", "{{ raise_exception('no') }}", "{{ messages[0].content + 1 }}",
    "{% if %}", "{{ 1 // 0 }}", "{{ missing.field }}",
])  # fmt: skip
def test_a_hostile_or_broken_template_is_a_prompt_error(template, folder):
    with pytest.raises(PromptError, match="chat template"):
        with_bos(folder, chat_template=template).encode_prompt("Hi")


def test_a_damaged_special_token(folder):
    with pytest.raises(ModelError, match="bos_token"):
        with_bos(folder, bos_token={"special": True})
