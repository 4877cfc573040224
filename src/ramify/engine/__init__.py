"""The engine: searches yield commands, one ragged step serves them all."""

from ramify.engine.commands import Drop, Extend, Fork, Peek, Read, Reward, Rewind, Score
from ramify.engine.engine import Engine
from ramify.engine.sequence import Group, Prompt, Sequence

__all__ = ["Drop", "Engine", "Extend", "Fork", "Group", "Peek", "Prompt", "Read", "Reward", "Rewind", "Score",
           "Sequence"]
