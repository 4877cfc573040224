"""Between two tokenizers: what is read is the text, and what is written goes on from exactly there."""

import random

import pytest
from scripted import byte_pairs, pieces, saved

from ramify.speculative.translation import Translation, follow

PROMPT = "the cat"
TEXTS = [" ate 12 hats; the rest went west", " ü東京 😀 Grüße", "  two  spaces\n\nand lines\t", "😀😀", "s 120 or 12",
         "…the – end"]
TOKENIZERS = {"coarse": lambda: byte_pairs(320), "fine": lambda: byte_pairs(262), "pieces": pieces}
PAIRS = [(a, b) for a in TOKENIZERS for b in TOKENIZERS]


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Tokenizers by name."""
    return {name: saved(make(), tmp_path_factory.mktemp(name)) for name, make in TOKENIZERS.items()}


def between(cut, pair):
    return Translation(cut[pair[0]], cut[pair[1]])


def splits(tokenizer, text):
    """(prompt, answer, rest of the text) at every place where the target may stand, in the middle of characters too."""
    prompt, ids = tokenizer.encode(PROMPT), follow(tokenizer, PROMPT, PROMPT + text)
    for at in range(len(ids)):
        yield prompt, ids[:at], ids[at:]


def said(tokenizer, ids):
    """What they say, without the part of a character that they may end in."""
    texts = [tokenizer.decode(ids[: len(ids) - held]) for held in range(4)]
    return next((text for text in texts if not text.endswith("\ufffd")), texts[0])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_what_is_written_goes_on_from_the_answer(cut, pair, text):
    """Whatever part of the text the draft wrote, answer and draft are a beginning of it; mostly all of that part."""
    both, (target, draft), whole = between(cut, pair), (cut[name] for name in pair), PROMPT + text
    hits = total = 0
    for prompt, answer, _ in splits(target, text):
        read = said(target, [*prompt, *answer])
        path = follow(draft, read, whole)
        if draft.decode([*draft.encode(read), *path]) != whole:
            continue  # it cannot go on from there: behind a space it says another one
        for size in range(len(path) + 1):
            written = said(target, [*prompt, *answer, *both.write(prompt, answer, path[:size])])
            assert whole.startswith(written)
            hits, total = hits + (written == said(draft, [*draft.encode(read), *path[:size]])), total + 1
    assert hits >= 0.8 * total


@pytest.mark.parametrize("text", TEXTS[:4])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_rest_is_written_in_the_targets_own_tokens(cut, pair, text):
    both, (target, draft) = between(cut, pair), (cut[name] for name in pair)
    hits = total = 0
    for prompt, answer, rest in splits(target, text):
        path = follow(draft, said(target, [*prompt, *answer]), PROMPT + text)
        hits, total = hits + (both.write(prompt, answer, path) == rest), total + 1
    assert hits >= 0.8 * total


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_whole_characters_are_read_and_nothing_else(cut, pair):
    both, (target, draft) = between(cut, pair), (cut[name] for name in pair)
    for text in TEXTS[:4]:
        for prompt, answer, _ in splits(target, text):
            seen = draft.decode([*draft.encode(PROMPT), *both.read(prompt, answer)])
            assert seen == said(target, [*prompt, *answer])


def test_the_end_becomes_the_targets(cut):
    both = between(cut, ("coarse", "fine"))
    prompt, end = cut["coarse"].encode(PROMPT), cut["fine"].eos_ids[0]
    path = cut["fine"].encode(" sat")
    assert both.write(prompt, [], [*path, end]) == [*cut["coarse"].encode(" sat"), *cut["coarse"].eos_ids]
    assert both.write(prompt, [], [end]) == list(cut["coarse"].eos_ids)
    assert both.write(prompt, [], path) == cut["coarse"].encode(" sat")
    assert both.write(prompt, [], []) == []


def test_an_end_behind_half_a_character_is_not_taken(cut):
    both, half = between(cut, ("coarse", "fine")), cut["fine"].encode(" 😀")[:-1]
    prompt = cut["coarse"].encode(PROMPT)
    assert cut["coarse"].eos_ids[0] not in both.write(prompt, [], [*half, cut["fine"].eos_ids[0]])[:-1]


def test_noise_is_translated_without_a_word(cut):
    """Any ids at all: no error, and never a change of what was committed."""
    rng = random.Random(0)
    for pair in PAIRS:
        both, (target, draft) = between(cut, pair), (cut[name] for name in pair)
        for _ in range(60):
            prompt, answer, path = ([rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(most))]
                                    for tokenizer, most in ((target, 5), (target, 25), (draft, 9)))
            both.read(prompt, answer)
            ids = both.write(prompt, answer, path)
            assert all(0 <= token < target.vocab_size for token in ids)


def test_encoding_the_rest_alone_is_caught(cut):
    """The broken twin: a tokenizer that adds a space at a beginning adds it in the middle of the text."""
    target = cut["pieces"]
    known = target.encode("the m")
    assert target.decode([*known, *follow(target, "the m", "the mxyz")]) == "the mxyz"
    assert target.decode([*known, *target.encode("xyz")]) != "the mxyz"
