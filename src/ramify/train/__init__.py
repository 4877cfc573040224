"""Trainers for language models, reward models, DPO policies and drafts; a leaf that no engine room imports.

All share one loop (`loop.train`): a trainer is a loss as a function of the step number.
"""

from ramify.train.data import Row
from ramify.train.distill import train_draft
from ramify.train.dpo import Pair, train_dpo
from ramify.train.lm import train_lm
from ramify.train.loop import LoopConfig
from ramify.train.reward import Judged, train_reward

__all__ = ["Judged", "LoopConfig", "Pair", "Row", "train_dpo", "train_draft", "train_lm", "train_reward"]
