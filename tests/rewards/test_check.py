"""A reward model says the same however it is asked, and the check notices when it does not."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from ramify.errors import RewardError
from ramify.models import load_model
from ramify.models.hub import EMBEDDED
from ramify.rewards.check import SAMPLES, check_reward, turn_ids


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A random reward folder with the embedded family's tokenizer."""
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    source = EMBEDDED / "mini-math"
    vocabulary = load_model(str(source)).decoder.config.vocab_size
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, num_labels=1,
                         pad_token_id=0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return load_model(str(folder), head=True)


def test_every_way_of_reading_gives_one_score(classifier):
    rows = check_reward(classifier)
    assert len(rows) == len(SAMPLES)
    assert all(row.reference is not None for row in rows)
    assert max(row.spread for row in rows) < 1e-4


def test_answers_differ_and_a_differing_reading_shows(classifier):
    rows = check_reward(classifier, SAMPLES[:3])
    assert len({row.alone for row in rows}) == 3
    broken = replace(rows[0], together=rows[1].together)
    assert broken.spread > 1e-4


def test_the_turn_is_closed_once_and_opened_once(classifier):
    ids, tokenizer = turn_ids(classifier, "One?", "1"), classifier.tokenizer
    assert ids.count(tokenizer.bos_id) == 1 and ids[0] == tokenizer.bos_id
    assert [token for token in ids if token in tokenizer.eos_ids] == [ids[-1]]


def test_a_text_beyond_the_context_is_refused(classifier):
    with pytest.raises(RewardError, match="256 tokens"):
        turn_ids(classifier, "long " * 400, "1")
