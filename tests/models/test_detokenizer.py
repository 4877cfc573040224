"""Pieces of a growing answer join to the text of the whole, whatever the tokenizer cuts through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from ramify.models.detokenizer import START, Detokenizer

CORPUS = ["the tenth other theatre", "naïve café Ünïcödé", "日本語のテキスト", "🦊🦊 flag 🇯🇵", "x\ufffdy  z\n\n\tend"]


def byte_level() -> Backend:
    """Byte-level BPE with merges, so that characters are cut within and across tokens; 0 and 1 are special."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentencepiece() -> Backend:
    """Pieces with a leading space mark, bytes for what is not covered, and the first space cut: Llama 2's way."""
    pieces = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "a", "b", "▁a", "é", "▁▁"]
    backend = Backend(models.BPE(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[("▁", "a"), ("▁", "▁")],
        byte_fallback=True, fuse_unk=True,
    ))  # fmt: skip
    backend.add_special_tokens(["<s>", "</s>"])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return backend


class Decoding:
    """The part of a tokenizer that the detokenizer needs."""

    def __init__(self, backend: Backend):
        self.backend = backend

    def encode(self, text):
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.backend.decode(list(ids), skip_special_tokens=True)


TOKENIZERS = {"byte level": Decoding(byte_level()), "sentencepiece": Decoding(sentencepiece())}
NAMES = sorted(TOKENIZERS)
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("  the a🦊é\ufffd"), max_size=12)


def stream(tokenizer, ids, cuts):
    """The pieces shown when the answer grows to each of `cuts`, and what is left at the end."""
    detokenizer, state, pieces = Detokenizer(tokenizer), START, []
    for end in cuts:
        piece, state = detokenizer.advance(ids[:end], state)
        pieces.append(piece)
    return [*pieces, detokenizer.rest(ids, state)]


def naive(tokenizer, ids, cuts):
    """The broken twin: every piece decoded by itself."""
    return [tokenizer.decode(ids[start:end]) for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def mixed(tokenizer, texts):
    """Ids of `texts` with a special token between them, as an answer that ignores its end has."""
    ids = []
    for special, text in enumerate(texts):
        ids += [special % 2, *tokenizer.encode(text)] if special else tokenizer.encode(text)
    return ids


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(st.lists(TEXT, max_size=4), st.data())
def test_pieces_join_to_the_whole(name, texts, data):
    tokenizer = TOKENIZERS[name]
    ids = mixed(tokenizer, texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=30)))
    whole = tokenizer.decode(ids)
    assert "".join(stream(tokenizer, ids, cuts)) == whole
    assert "".join(stream(tokenizer, ids, range(1, len(ids) + 1))) == whole


@pytest.mark.parametrize("name", NAMES)
def test_decoding_pieces_by_themselves_is_wrong(name):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(" a 🐳 中文 the a")
    cuts = range(1, len(ids))
    assert "".join(naive(tokenizer, ids, cuts)) != tokenizer.decode(ids)


@pytest.mark.parametrize("name", NAMES)
def test_no_half_character_is_shown(name):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("a 🐳 中文 é")
    pieces = stream(tokenizer, ids, range(1, len(ids) + 1))
    assert len(ids) > len("a 🐳 中文 é"), "characters must be cut for this to mean anything"
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_cut_character_waits(name):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("the a 🐳")
    half = ids[:-1]
    assert Detokenizer(tokenizer).advance(half)[0] == "the a "


def test_bytes_that_are_no_text_come_out_in_the_end():
    tokenizer = TOKENIZERS["byte level"]
    half = tokenizer.encode("🐳")[:1]
    assert stream(tokenizer, half * 9, range(1, 10))[-1] == "\ufffd" * 9
    assert stream(tokenizer, half * 9 + tokenizer.encode("the"), [9, 12])[1] == "\ufffd" * 9 + "the"


def test_the_state_can_be_copied_and_resumed():
    tokenizer = TOKENIZERS["byte level"]
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode("the 🦊 tenth")
    shared, state = detokenizer.advance(ids[:3])
    for tail in ("é", " other"):
        child = ids[:3] + tokenizer.encode(tail)
        piece, after = detokenizer.advance(child, state)
        assert shared + piece + detokenizer.rest(child, after) == tokenizer.decode(child)
