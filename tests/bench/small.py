"""A random Llama and a random reward on disk, small enough for a search in milliseconds."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import ramify.api
from ramify.bench.random_model import Shape, write_llama
from ramify.engine import Engine
from ramify.models import load_model
from ramify.rewards import ImplicitReward, LikelihoodReward, SequenceReward

SMALL = Shape(hidden=16, layers=2, heads=2, kv_heads=1, inner=24, vocabulary=300, positions=512)


@cache
def small_model(seed=0, reward=False):
    with TemporaryDirectory() as scratch:
        return load_model(write_llama(Path(scratch) / "model", SMALL, seed=seed, reward=reward), head=reward)


def small_llm(reward="classifier", dedupe=True):
    rewards = {"none": lambda: None, "classifier": lambda: SequenceReward(small_model(1, reward=True)),
               "open": lambda: SequenceReward(small_model(1, reward=True), closed=False),
               "likelihood": lambda: LikelihoodReward(small_model(2)),
               "implicit": lambda: ImplicitReward(small_model(2), small_model(3))}
    engine = Engine(small_model(), capacity=8192, block_size=4, step_tokens=64, prefix_cache=False,
                    dedupe=dedupe)
    return ramify.api.LLM(engine, rewards[reward]())
