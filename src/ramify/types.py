"""Plain data that crosses the public border: options in, results out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ramify.errors import OptionError

Role = Literal["target", "draft", "reward", "reference"]
ROLES: tuple[Role, ...] = ("target", "draft", "reward", "reference")
State = Literal["live", "finished", "length", "dropped"]


def check(ok: bool, needed: str, got: object, do: str) -> None:
    """Raise `OptionError` unless `ok`."""
    if not ok:
        raise OptionError(needed, str(got), do)


@dataclass(slots=True, frozen=True, kw_only=True)
class SamplingParams:
    """How one token is drawn. Together with the model it defines the policy that a search samples from.

    Args:
        max_tokens: longest answer, in tokens, the end-of-sequence token included.
        temperature: 0 takes the most likely token, 1 samples the model as it is.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens with at least this probability.
        min_p: keep tokens with at least this fraction of the most likely token's probability.
        repetition_penalty: divides positive and multiplies negative logits of tokens already seen; 1 is off.
        presence_penalty: subtracted once from the logit of every token of the answer so far.
        frequency_penalty: subtracted per occurrence in the answer so far.
        logit_bias: token id to a number added to its logit.
        stop: strings that end an answer; they are cut from its text.
        ignore_eos: keep going after the end-of-sequence token.

    Raises:
        OptionError: a value out of its range.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        check(self.max_tokens >= 1, "max_tokens of at least 1", self.max_tokens, "raise it")
        check(self.temperature >= 0, "a temperature of 0 or more", self.temperature, "use 0 for greedy, 1 to sample")
        check(self.top_k >= 0, "top_k of 0 (off) or more", self.top_k, "use 0 to keep every token")
        check(0 < self.top_p <= 1, "top_p in (0, 1]", self.top_p, "use 1 to keep every token")
        check(0 <= self.min_p <= 1, "min_p in [0, 1]", self.min_p, "use 0 to keep every token")
        check(self.repetition_penalty > 0, "a repetition_penalty above 0", self.repetition_penalty, "use 1 for none")
        check(all(self.stop), "stop strings that are not empty", repr(self.stop), "remove the empty one")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The options' names, as keyword arguments and request fields spell them."""
        return tuple(f.name for f in fields(cls))


Verifier = Literal["auto", "token", "block", "recursive", "k_sequential", "traversal", "coupled", "greedy", "lossy",
                   "typical", "trusted"]


@dataclass(slots=True, frozen=True, kw_only=True)
class SpeculationParams:
    """How tokens are drafted and verified, where a draft was loaded. All but the lossy verifiers keep the law.

    Args:
        draft_length: tokens drafted ahead; 0 drafts none; None picks the length, 0 included, at every step from
            measured costs and acceptance.
        verifier: "auto" is "coupled" where draft_length is None (the text is then that of plain decoding, token for
            token, whatever the length), else "block" for chains and "traversal" for trees. "lossy", "typical" and
            "trusted" change the law; "trusted" lets all stand and goes with draft_stop="mean:...".
        tree: "" drafts a chain. "3x2x1" branches so often at each depth, without replacement; "iid:3x2x1" with;
            "beam:4x5" is a stochastic beam of width 4 and depth 5; "likely:8x5" the most likely paths.
        draft_stop: "" or a rule that ends a draft early, from the draft alone: "likelihood:0.4" where all of it has a
            lower probability, "confidence:0.4" where no next token had that one, "entropy:1.5" above so many nats,
            "acceptance:0.3" where its acceptance head sees a larger chance that some token will be rejected.
            "mean:1.2" is entropy-adaptive decoding: no rule of drafts, but of who writes. The draft model does where
            the mean of its last entropies is at most so many nats, the target elsewhere.
        lenience: of "lossy": accepts with min(1, q / (lenience p)).

    Raises:
        OptionError: a value out of its range.
    """

    draft_length: int | None = None
    verifier: Verifier = "auto"
    tree: str = ""
    draft_stop: str = ""
    lenience: float = 1.0

    def __post_init__(self) -> None:
        check(self.draft_length is None or 0 <= self.draft_length <= 64, "a draft_length between 0 and 64",
              self.draft_length, "use 0 for no draft; long drafts are rarely accepted to their end")
        check(self.verifier in get_args(Verifier), f"a verifier among {', '.join(get_args(Verifier))}",
              repr(self.verifier), "pick one of them")
        check(0 < self.lenience <= 1, "a lenience in (0, 1]", self.lenience, "1 is lossless")
        check(self.lenience == 1 or self.verifier == "lossy", "verifier=lossy for a lenience below 1", self.verifier,
              "set both or neither")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The options' names."""
        return tuple(f.name for f in fields(cls))


@dataclass(slots=True)
class RoleUsage:
    """Forward tokens of one model role. `prefill + decode + verify + recomputed` is what the model saw.

    prefill: tokens of a text seen for the first time (the prompt; for a reward also the answer it reads).
    decode: generated tokens fed back one at a time. verify: draft tokens checked by the target.
    recomputed: tokens fed again after their cache was given up. dropped: those of the above that belong
    to candidates dropped before the end. cached: tokens whose forward was saved by a fork or the prefix
    cache. calls: forward passes this request took part in. flops: 2 * params * tokens plus attention.
    """

    prefill: int = 0
    decode: int = 0
    verify: int = 0
    dropped: int = 0
    recomputed: int = 0
    cached: int = 0
    calls: int = 0
    flops: float = 0.0

    @property
    def tokens(self) -> int:
        """Forward tokens in all."""
        return self.prefill + self.decode + self.verify + self.recomputed


@dataclass(slots=True)
class Usage:
    """Everything one request spent. Peak KV tokens are those of the target's cache."""

    target: RoleUsage = field(default_factory=RoleUsage)
    draft: RoleUsage = field(default_factory=RoleUsage)
    reward: RoleUsage = field(default_factory=RoleUsage)
    reference: RoleUsage = field(default_factory=RoleUsage)
    peak_kv_tokens: int = 0
    wall_seconds: float = 0.0

    def role(self, role: Role) -> RoleUsage:
        """The ledger page of one role."""
        page: RoleUsage = getattr(self, role)
        return page

    @property
    def flops(self) -> float:
        """Floating-point operations of all roles."""
        return sum(self.role(role).flops for role in ROLES)

    def to_dict(self) -> dict[str, Any]:
        """The `usage` block of the JSON result; a role that did nothing is an empty object."""
        pages: dict[str, Any] = {role: asdict(self.role(role)) for role in ROLES}
        for page in pages.values():
            if not page["calls"]:
                page.clear()
        return {**pages, "flops": self.flops, "peak_kv_tokens": self.peak_kv_tokens,
                "wall_seconds": self.wall_seconds}


@dataclass(slots=True)
class Candidate:
    """One sequence of a finished request.

    id: path of forks, such as "0.2.1". state: "finished" (end of sequence or stop string), "length" or
    "dropped". reward: the last score, None if it was never scored. scores: (tokens at that moment, score).
    """

    id: str
    text: str
    reward: float | None
    state: State
    dropped_at: int | None
    tokens: int
    scores: list[tuple[int, float]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; token ids stay out."""
        row = asdict(self)
        del row["token_ids"]
        row["scores"] = [list(pair) for pair in self.scores]
        return row


@dataclass(slots=True)
class Result:
    """The answer of one request, every candidate it considered, and what it cost."""

    text: str
    reward: float | None
    finish_reason: Literal["stop", "length"]
    method: str
    seed: int
    candidates: list[Candidate]
    usage: Usage
    chosen: str = ""
    speculative: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract of `ramify generate --json`."""
        return {
            "text": self.text, "reward": self.reward, "finish_reason": self.finish_reason,
            "method": self.method, "seed": self.seed, "chosen": self.chosen,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "usage": self.usage.to_dict(), "speculative": self.speculative, "warnings": self.warnings,
        }
