"""From forward tokens to FLOPs, and what Best-of-N costs; other methods' tokens are in their own files."""

from __future__ import annotations

from collections.abc import Mapping

from ramify.theory.checks import need, need_count


def flops(tokens: Mapping[str, float], params: Mapping[str, float]) -> float:
    """2 * parameters * forward tokens, summed over model roles; attention, which needs shapes, is left out.

    Raises:
        OutOfRange: a role has tokens but no parameter count.
    """
    for role, count in tokens.items():
        need(count == 0 or role in params, f"the parameter count of the {role} model", "none", "give it")
    return sum(2 * params[role] * count for role, count in tokens.items() if count)


def best_of_n_tokens(n: float, max_tokens: int, prompt_tokens: int = 0, *,
                     reuse: bool = True) -> dict[str, float]:
    """Forward tokens by role of Best-of-n when every answer is `max_tokens` long.

    target: the prompt once and n (max_tokens - 1), since the last token of an answer is never fed back.
    reward: every token of every answer, and the prompt once if it can `reuse` its cache, else n times.
    """
    need(n >= 1, "n of at least 1", n, "draw at least one candidate")
    need_count("max_tokens", max_tokens)
    need(prompt_tokens >= 0, "prompt_tokens of 0 or more", prompt_tokens, "change it")
    return {"target": prompt_tokens + n * (max_tokens - 1),
            "reward": n * max_tokens + prompt_tokens * (1 if reuse else n)}
