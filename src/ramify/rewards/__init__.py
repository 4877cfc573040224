"""Rewards: anything with a name and a `score(sequences)` generator (see `ramify.engine.commands.Reward`)."""

from ramify.rewards.classifier import SequenceReward
from ramify.rewards.function import FunctionReward
from ramify.rewards.implicit import ImplicitReward
from ramify.rewards.likelihood import LikelihoodReward

__all__ = ["FunctionReward", "ImplicitReward", "LikelihoodReward", "SequenceReward"]
