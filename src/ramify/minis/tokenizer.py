"""The family's tokenizer: byte-level BPE over the generated corpus, digits one by one, chat markers as tokens."""

import json
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ramify.minis.problems import problem_stream

BOS, EOS, PAD, USER, ASSISTANT = SPECIAL = ("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>")
CONTEXT = 512
VOCABULARY = 1000
MAX_ANSWER = 96  # tokens; the longest solution the generator writes is shorter

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}{{ raise_exception('mini-math knows the roles user and assistant only') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(documents: int = 20_000, seed: int = 0) -> Tokenizer:
    """A tokenizer trained on `documents` train-split problems. Any text encodes; it adds no `<|bos|>` by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = (f"{p.question}\n{p.solution}" for p in islice(problem_stream("train", seed, (1, 5)), documents))
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [USER, ASSISTANT],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    ids = {f"{name}_token_id": SPECIAL.index(token) for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD))}
    for name, content in (("tokenizer_config", config), ("generation_config", ids)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """The question as one user turn with the generation prompt: what the chat template renders."""
    return tokenizer.encode(f"{BOS}{USER}{question}{ASSISTANT}").ids


def answer_ids(tokenizer: Tokenizer, solution: str) -> list[int]:
    """The assistant's turn, closed by `<|eos|>`."""
    return tokenizer.encode(solution + EOS).ids
