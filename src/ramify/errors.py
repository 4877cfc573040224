"""One tree of errors. Every message says what was needed, what was got, and what to do.

RamifyError
├── UserError          a mistake of the caller: exit code 2 on the command line, 400 over HTTP
│   ├── OptionError    an unknown, inapplicable or out-of-range option, method or field
│   ├── PromptError    a prompt that is empty, too long or malformed
│   ├── ModelError     a model folder that is missing, damaged, unsupported or does not fit
│   ├── RewardError    a reward that cannot score what it was given
│   ├── BackendError   a backend that lacks what a method needs
│   ├── DataError      a bad line in a data file
│   └── StorageError   results that could not be written
└── CapacityError      a request that cannot fit the memory it was given
"""

from __future__ import annotations


class RamifyError(Exception):
    """Base of every error that Ramify raises on purpose.

    Args:
        needed: what the operation requires, in one clause.
        got: what it was given instead.
        do: the next step that mends it.
    """

    def __init__(self, needed: str, got: str, do: str) -> None:
        super().__init__(needed, got, do)
        self.needed, self.got, self.do = needed, got, do

    def __str__(self) -> str:
        return f"needed {self.needed}; got {self.got}; {self.do}"


class UserError(RamifyError):
    """A mistake of the caller."""


class OptionError(UserError):
    """An unknown, inapplicable or out-of-range option, method or field."""


class PromptError(UserError):
    """A prompt that is empty, too long or malformed."""


class ModelError(UserError):
    """A model folder that is missing, damaged, unsupported or does not fit its companions."""


class RewardError(UserError):
    """A reward that cannot score what it was given."""


class BackendError(UserError):
    """A backend that lacks what a method needs."""


class DataError(UserError):
    """A bad line in a data file."""


class StorageError(UserError):
    """Results that could not be written where the caller wants them."""


class CapacityError(RamifyError):
    """A request that cannot fit the memory it was given."""
