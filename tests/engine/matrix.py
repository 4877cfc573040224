"""Every verifier with every kind of draft: what holds, what is lossy, what is refused. Writes docs/matrix.md.

    PYTHONPATH=src:tests/engine python tests/engine/matrix.py
"""

from pathlib import Path
from typing import get_args

from tiny import tiny_engine, tiny_model

from ramify.api import LLM
from ramify.errors import OptionError
from ramify.speculative import Draft
from ramify.types import Verifier

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"
TARGET, DRAFT = tiny_model(0), tiny_model(7)
VERIFIERS = [name for name in get_args(Verifier) if name != "auto"]
LOSSY = {"lossy": {"lenience": 0.5}, "typical": {}}

# What is drafted: (draft, options)
MODEL = Draft(DRAFT)
KINDS = {
    "chain": (MODEL, {"draft_length": 3}),
    "measured": (MODEL, {}),
    "stopped": (MODEL, {"draft_length": 4, "draft_stop": "confidence:0.4"}),
    "switched": (MODEL, {"draft_length": 4, "draft_stop": "mean:1.0"}),
    "`2x2`": (MODEL, {"tree": "2x2"}),
    "`iid:2x2`": (MODEL, {"tree": "iid:2x2"}),
    "`beam:2x3`": (MODEL, {"tree": "beam:2x3"}),
    "`likely:2x3`": (MODEL, {"tree": "likely:2x3"}),
    "ngram": (Draft(None, "ngram"), {"draft_length": 3}),
    "suffix": (Draft(None, "suffix"), {"draft_length": 3}),
    "suffix+model": (Draft(DRAFT, "suffix"), {"draft_length": 3}),
}

SAMPLING = {
    "temperature": {"temperature": 0.6}, "greedy": {"temperature": 0.0}, "top-p": {"top_p": 0.7}, "top-k": {"top_k": 2},
    "min-p": {"min_p": 0.2},
    "penalties": {"repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    "bias": {"logit_bias": {0: 1.0, 1: -0.5}}, "stop strings": {"stop": ("ba", "c")},
    "past the end": {"ignore_eos": True}, "one token": {"max_tokens": 1},
}

# (draft, options) that do not go together
REFUSED = [
    (None, {"verifier": "block"}), (None, {"draft_length": 4}), (MODEL, {"verifier": "greedy", "draft_length": 4}),
    (MODEL, {"verifier": "block", "lenience": 0.5, "draft_length": 4}),
    (MODEL, {"verifier": "lossy", "lenience": 0.5}), (MODEL, {"verifier": "typical"}),
    (MODEL, {"draft_length": 4, "tree": "2x2"}), (MODEL, {"draft_stop": "confidence:0.4", "tree": "2x2"}),
    (MODEL, {"draft_stop": "acceptance:0.3"}), (MODEL, {"verifier": "trusted", "draft_length": 4}),
    (MODEL, {"draft_stop": "mean:1.0", "draft_length": 4}),
    (Draft(None, "ngram"), {"draft_stop": "confidence:0.4"}), (Draft(None, "ngram"), {"tree": "2x2"}),
    (Draft(None, "suffix"), {"tree": "2x2"}), (Draft(DRAFT, "suffix"), {"tree": "2x2"}),
]
# and options that mean nothing
NONSENSE = [
    {"verifier": "exact"}, {"draft_length": 100}, {"draft_length": -1}, {"verifier": "lossy", "lenience": 0.0},
    {"draft_stop": "doubt:0.4"}, {"draft_stop": "confidence:2"}, {"draft_stop": "entropy"},
    {"draft_stop": "mean:x", "verifier": "trusted", "draft_length": 4}, {"tree": "2x"},
    {"tree": "0x2"}, {"tree": "9x9x9"}, {"tree": "beam:2"},
]


def make(draft, options, temperature=1.0):
    """What the library makes of the options; raises `OptionError`."""
    _, ahead = LLM(tiny_engine(TARGET), None, draft).speculation({**options, "temperature": temperature})
    return ahead


def cell(verifier, kind):
    """(options, error) of a verifier with a kind of draft."""
    draft, options = KINDS[kind]
    options = {**options, **LOSSY.get(verifier, {}), "verifier": verifier}
    try:
        make(draft, options, temperature=0.0 if verifier == "greedy" else 1.0)
    except OptionError as error:
        return options, f"needed {error.needed}; {error.do}"
    return options, None


CELLS = [(verifier, kind) for verifier in VERIFIERS for kind in KINDS if cell(verifier, kind)[1] is None]


def promise(verifier):
    """What an accepted combination keeps."""
    if verifier in LOSSY:
        return "lossy"
    return {"coupled": "text", "greedy": "text at 0", "trusted": "mixture"}.get(verifier, "law")


def page():
    """The text of docs/matrix.md."""
    errors = []
    lines = [HEAD, "| verifier | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for verifier in VERIFIERS:
        words = []
        for kind in KINDS:
            _, error = cell(verifier, kind)
            if error and error not in errors:
                errors.append(error)
            words.append(f"refused {errors.index(error) + 1}" if error else promise(verifier))
        lines.append(f"| `{verifier}` | " + " | ".join(words) + " |")
    lines += ["", "Refused with an `OptionError` before the first token:", ""]
    lines += [f"{number}. {error}" for number, error in enumerate(errors, 1)]
    lines += [MIDDLE, "| options | draft | error |", "|---|---|---|"]
    for draft, options in REFUSED:
        told = " ".join(f"`{name}={value}`" for name, value in options.items())
        lines.append(f"| {told} | {named(draft)} | {refusal(draft, options)} |")
    return "\n".join(lines) + "\n"


def named(draft):
    """A draft as users name it."""
    if draft is None:
        return "none"
    return "+".join(part for part in (draft.lookup, "model" if draft.model else "") if part)


def refusal(draft, options):
    """The error that options meet."""
    try:
        make(draft, options)
    except OptionError as error:
        return str(error).replace("|", "\\|")
    raise AssertionError(f"{options} is accepted")


HEAD = """# What goes with what

Written by `tests/engine/matrix.py` from what the library accepts; `tests/engine/test_matrix.py` runs every accepted
cell and fails when this page is stale.

Every search (`best_of_n`, `sample`, `self_consistency`, `speculative_rejection`, `treebon`) runs with every accepted
combination below, under every sampling option: temperature, top-k, top-p, min-p, the three penalties, logit bias,
stop strings, `ignore_eos` and `max_tokens`. What an accepted combination keeps:

- **law**: the answers have exactly the distribution of plain decoding; at temperature 0 the same text.
- **text**: the text of plain decoding, token for token, for every seed.
- **text at 0**: the same, at temperature 0 only.
- **lossy**: the law changes; at temperature 0 the text does not. `ramify verify --draft table` tells by how much.
- **mixture**: lossy at every temperature: the draft model writes where it is sure, the target elsewhere.

The columns are what is drafted. *chain*: `draft_length=3`; *measured*: no length given, it is chosen at every step;
*stopped*: a chain with `draft_stop`; *switched*: `draft_stop=mean:1.0`, entropy-adaptive decoding; then the shapes
of `tree`, and the drafts that need no model or add one.
Without a verifier (`auto`) a measured length takes `coupled`, a given one `block`, and a tree `traversal`.
Where a cell says *law*, a text repeats with its seed except in two columns: measured lengths depend on the machine's
times, and under memory pressure or with siblings to look up a draft may be another one. `coupled` is immune.
"""

MIDDLE = """
## Options that do not go together
"""

if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
