"""Models that write known texts, each in its own tokens, and tokenizers that cut text differently."""

import json

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from ramify.models import Model, Tokenizer
from ramify.models.config import parse_config

END = "</s>"
POSITIONS = 256
WORDS = "the cat sat on the mat and the other cat ate 12 or 120 hats; then the rest went to the west"


def byte_pairs(size):
    """Byte-level pairs, as GPT-2 has them; at most `size` tokens, at least one per byte."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    backend.train_from_iterator([WORDS, "ü東京 Grüße"] * 3, trainer)
    return backend


def pieces():
    """As SentencePiece cuts text: spaces belong to words, a first one is added, unknown characters become bytes."""
    letters = [chr(at) for at in range(33, 127)]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "t"), ("▁", "c"), ("▁c", "at"), ("s", "t"), ("▁", "1")]
    tokens = [END, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *("".join(pair) for pair in merges)]
    backend = Backend(models.BPE({token: at for at, token in enumerate(tokens)}, merges, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([END])
    return backend


def saved(backend, folder):
    """Put a tokenizer into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    return Tokenizer(folder)


class Script:
    """A decoder that goes on with the first of its texts that begins with what it has read, and with nonsense else.

    It learns what it has read through the real attention: scores are 0 and the value at position i is the token in
    channel i, so that the mean tells all of them.
    """

    dtype, num_parameters, fused = torch.float64, 1, None

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts, self.seen = tokenizer, [(text, tokenizer.encode(text)) for text in texts], 0
        self.config = parse_config({
            "model_type": "llama", "vocab_size": tokenizer.vocab_size, "hidden_size": POSITIONS, "num_hidden_layers": 1,
            "num_attention_heads": 1, "head_dim": POSITIONS, "intermediate_size": 1,
            "max_position_embeddings": POSITIONS})

    def __call__(self, tokens_T, positions_T, attend):
        self.seen += len(tokens_T)
        v_TP = torch.zeros(len(tokens_T), POSITIONS, dtype=torch.float64)
        v_TP[range(len(tokens_T)), positions_T] = tokens_T.double() + 1
        zeros_T1P = torch.zeros_like(v_TP)[:, None]
        mean_TP = attend(0, zeros_T1P, zeros_T1P, v_TP[:, None])[:, 0]
        return (mean_TP * (positions_T[:, None] + 1)).round()

    def logits(self, hidden_KP):
        rows = []
        for row in hidden_KP.long().tolist():
            logits_V = torch.zeros(self.config.vocab_size, dtype=torch.float64)
            logits_V[self.next_token([token - 1 for token in row if token])] = 9.0
            rows.append(logits_V)
        return torch.stack(rows)

    def next_token(self, ids):
        end = self.tokenizer.eos_ids[0]
        for _, whole in self.texts:
            if whole[: len(ids)] == ids:
                return whole[len(ids)] if len(ids) < len(whole) else end
        reads = [self.tokenizer.decode(ids[: len(ids) - held]) for held in range(4)]
        held, read = next((pair for pair in enumerate(reads) if not pair[1].endswith("\ufffd")), (0, reads[0]))
        for text, _ in self.texts:
            if text.startswith(read):
                rest = self.tokenizer.encode(text[len(read) :])[held:]
                return rest[0] if rest else end
        return sum(ids) % self.config.vocab_size

    def flops(self, num_tokens, context_tokens_total):
        return 2.0 * num_tokens


def scripted_model(tokenizer, *texts):
    return Model("scripted", Script(tokenizer, texts), tokenizer, None, None)
