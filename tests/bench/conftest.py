"""A tabular model and reward on the real engine."""

import pytest

from ramify.api import LLM
from ramify.bench.questions import Question
from ramify.engine import Engine
from ramify.exact.tabular import tabular_model, tabular_reward
from ramify.rewards import SequenceReward
from ramify.sampling.draws import mix

EOS = 2


def points(prefix):
    """A reward with few ties; the end of sequence adds nothing, so that partial scores mean something."""
    return mix(7, *(token for token in prefix if token != EOS)) % 101 / 10


@pytest.fixture
def llm():
    engine = Engine(tabular_model(3, 1), capacity=1024, block_size=4, prefix_cache=False)
    return LLM(engine, SequenceReward(tabular_reward(3, points)))


@pytest.fixture
def questions():
    return [Question(prompt, lambda text: text.startswith("b")) for prompt in ("a", "ab", "ba", "bb")]
