"""The embedded family `mini-math`: problems, tokenizer, training recipe, evaluation and weights."""

from ramify.minis.problems import Problem, is_correct, problems

__all__ = ["Problem", "is_correct", "problems"]
