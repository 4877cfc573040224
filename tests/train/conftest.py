"""A language model small enough to train in a test, and rows with something to learn."""

import pytest
import torch

from ramify.train.data import Row
from ramify.train.models import new_llama

VOCABULARY, PROMPT = 12, 2


@pytest.fixture
def make_model():
    def make(seed=0):
        torch.manual_seed(seed)
        return new_llama(
            VOCABULARY, hidden=16, inner=32, layers=2, heads=2, kv_heads=1, context=32, bos=0, eos=1, pad=2
        )

    return make


@pytest.fixture
def rows():
    """Prompt [0, a]; answer a, a, eos."""
    return [Row([0, a, a, a, 1], PROMPT) for a in range(3, 11)]
