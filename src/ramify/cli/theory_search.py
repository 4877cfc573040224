"""The commands of `ramify theory` about searches: what Best-of-N and its family cost and can win."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ramify.cli.theory_input import (
    Pool,
    need_at_most_one,
    numbers,
    one_pool,
    read_levels,
    read_pools,
    user_mistakes,
    whole,
    widths,
)
from ramify.cli.theory_output import AsJson, Row, cell, show
from ramify.errors import OptionError
from ramify.theory.checks import need_count

if TYPE_CHECKING:
    from ramify.theory.law import Law

Widths = Annotated[str, typer.Option("-n", "--n", help="Candidates: one number or several, 1,4,16.")]
Width = Annotated[int, typer.Option("-n", "--n", help="Candidates at the start.")]
Levels = Annotated[str | None, typer.Option(help="The law of one answer's reward, 0:0.7,1:0.3.")]
Rewards = Annotated[Path | None, typer.Option(help="JSON lines, each a reward, {reward, prompt, correct}, or a "
                                              "result of `ramify generate --json`.")]
MaxTokens = Annotated[int, typer.Option(help="Tokens of every answer; none stops earlier.")]
PromptTokens = Annotated[int, typer.Option(min=0, help="Tokens of the prompt.")]
TargetParams = Annotated[float | None, typer.Option(help="Parameters of the target, 8e9; adds FLOPs.")]
RewardParams = Annotated[float | None, typer.Option(help="Parameters of the reward model.")]


def bon(n: Widths = "16", levels: Levels = None, rewards: Rewards = None, as_json: AsJson = False) -> None:
    """Best-of-N: expected reward, KL from the policy, win rate.

    Exact with --levels, estimated with --rewards, bounds with neither.
    """
    with user_mistakes():
        need_at_most_one(levels=levels, rewards=rewards)
        if rewards is not None:
            _show_estimates(read_pools(rewards), widths(n), as_json)
        elif levels is not None:
            _show_exact(read_levels(levels), widths(n), as_json)
        else:
            rows = [_bounds(width) for width in widths(n)]
            show({"theory": "bon"}, rows,
                  f"Best-of-{rows[-1]['n']} is at most {rows[-1]['kl_bound']:.3g} nats from the policy and beats "
                  f"one draw at most {rows[-1]['win_rate_bound']:.1%} of the time; --levels makes it exact.",
                  as_json)


def kl(n: Widths = "1,2,4,8,16,32,64,128,256", levels: Levels = None,
       top: Annotated[float | None, typer.Option(help="Probability of the best reward: a sharper bound.")] = None,
       as_json: AsJson = False) -> None:
    """How far Best-of-N moves from the policy: the formula, a sharper bound, the truth."""
    from ramify.theory import best_of_n

    with user_mistakes():
        need_at_most_one(levels=levels, top=top)
        law = read_levels(levels) if levels is not None else None
        top = law.top if law else top or 0.0
        rows = [_bounds(width) for width in widths(n)]
        for row in rows:
            row |= {"kl_bound_given_top": best_of_n.kl_bound(row["n"], top)} if top else {}
            row |= {"kl": best_of_n.kl(law, row["n"])} if law else {}
        name, best = list(rows[-1].items())[-1] if top else ("", rows[-1]["kl_bound"])
        show({"theory": "kl", "top": top}, rows,
              f"At n = {rows[-1]['n']} the KL is {'' if name == 'kl' else 'at most '}{best:.4g} nats. Ties keep it "
              f"below log n - (n-1)/n = {rows[-1]['kl_bound']:.4g}.", as_json)


def speculative_rejection(
        n: Width = 16,
        alpha: Annotated[float, typer.Option(help="Fraction dropped at each decision.")] = 0.5,
        max_tokens: MaxTokens = 256,
        first_round: Annotated[int | None, typer.Option(help="Tokens before the first decision; default: "
                                                             "a quarter of max_tokens.")] = None,
        chunk: Annotated[int | None, typer.Option(help="Decide every so many tokens instead.")] = None,
        rule: Annotated[Literal["ceil", "round", "quantile"],
                        typer.Option(help="Rounding of the number kept.")] = "ceil",
        prompt_tokens: PromptTokens = 0, target_params: TargetParams = None,
        reward_params: RewardParams = None, as_json: AsJson = False) -> None:
    """Speculative Rejection: who lives when, and the saving against Best-of-N."""
    from ramify.theory import speculative_rejection as sr

    with user_mistakes():
        need_at_most_one(first_round=first_round, chunk=chunk)
        if chunk is None:
            first_round = math.ceil(max_tokens / 4) if first_round is None else first_round
            plan = sr.schedule(n, alpha, max_tokens, first_round, rule)
        else:
            need_count("chunk", chunk)
            plan = sr.schedule_at(n, alpha, max_tokens, range(chunk, max_tokens, chunk), rule)
        target, kept = plan.target_tokens(prompt_tokens), plan.reward_tokens(prompt_tokens)
        tokens = {"target": target, "reward": kept}
        reread = {"target": target, "reward": plan.reward_tokens(prompt_tokens, reuse=False)}
        data = {"theory": "speculative_rejection", "decode_tokens": plan.decode_tokens,
                "dropped_tokens": plan.dropped_tokens, "peak_tokens": plan.peak_tokens,
                "survivors": plan.survivors, "best_of_n_tokens": plan.best_of_n_tokens,
                "cost_ratio": plan.cost_ratio, "matched_width": plan.matched_width,
                "tokens": tokens, "tokens_reread": reread}
        if first_round is not None and alpha >= 0.001 and n * first_round >= max_tokens:
            data["continuous_tokens"] = sr.continuous_schedule(n, alpha, max_tokens, first_round).decode_tokens
            data["closed_form_tokens"] = sr.closed_form_tokens(n, alpha, max_tokens, first_round)
        data |= _flops(n, max_tokens, prompt_tokens, tokens, reread,
                       {"target": target_params, "reward": reward_params})
        rows = [{"round": i, **asdict(r), "tokens": r.tokens} for i, r in enumerate(plan.rounds, 1)]
        show(data, rows,
              f"Decodes {cell(plan.decode_tokens)} tokens, {plan.cost_ratio:.1%} of Best-of-{n}'s "
              f"{cell(plan.best_of_n_tokens)}; {cell(plan.survivors)} of {n} candidates finish. The memory "
              f"for {cell(plan.peak_tokens)} answer tokens would hold Best-of-{plan.matched_width:.3g}. The "
              f"reward model reads {cell(kept)} tokens, or {cell(reread['reward'])} without a cache."
              + _flops_in_words(data, n), as_json)


def treebon(
        n: Width = 16,
        layers: Annotated[int, typer.Option(help="Layers of equal length.")] = 4,
        children: Annotated[int, typer.Option(help="Children of each of n / children survivors.")] = 4,
        max_tokens: MaxTokens = 256, prompt_tokens: PromptTokens = 0, target_params: TargetParams = None,
        reward_params: RewardParams = None,
        scorer_params: Annotated[float | None, typer.Option(help="Parameters of each of two scorers.")] = None,
        as_json: AsJson = False) -> None:
    """TreeBoN: tokens per layer, for decoding, the two scorers and the reward model."""
    from ramify.theory import treebon as tb

    with user_mistakes():
        plan = tb.tree(n, layers, children, max_tokens)
        tokens, reread = ({"target": plan.target_tokens(prompt_tokens),
                           "scorer": plan.scorer_tokens(prompt_tokens, reuse=reuse),
                           "reward": plan.reward_tokens(prompt_tokens, reuse=reuse)} for reuse in (True, False))
        data = {"theory": "treebon", "decode_tokens": plan.decode_tokens, "tokens": tokens,
                "tokens_reread": reread, "kl_bound": tb.kl_bound(n, layers, children),
                "reward_tokens_forked_at_most": plan.reward_tokens_forked(prompt_tokens)}
        data |= _flops(n, max_tokens, prompt_tokens, tokens, reread,
                       {"target": target_params, "reward": reward_params, "scorer": scorer_params})
        rows = [{"layer": i, **asdict(layer), "tokens": layer.tokens} for i, layer in enumerate(plan.layers, 1)]
        show(data, rows,
              f"Decodes {cell(plan.decode_tokens)} tokens, {plan.decode_tokens / (n * max_tokens):.1%} of "
              f"Best-of-{n}'s. The two scorers together read "
              f"{cell(tokens['scorer'])} more if their caches fork with the tree, {cell(reread['scorer'])} "
              f"if not. Whatever the scores, the answer's law is within {data['kl_bound']:.3g} nats of the "
              f"policy." + _flops_in_words(data, n), as_json)


def tilt(levels: Levels = None, rewards: Rewards = None,
         kl: Annotated[str, typer.Option(help="The most reward within these KLs, in nats, 0.5,1.")] = "",
         beta: Annotated[str, typer.Option(help="Tilts of these temperatures, in reward units.")] = "",
         n: Annotated[str, typer.Option("-n", "--n", help="Best-of-N to hold against it, 4,16.")] = "",
         as_json: AsJson = False) -> None:
    """The optimum p exp(r/beta)/Z: the reward a KL can buy, and what Best-of-N gets."""
    from ramify.theory import best_of_n

    with user_mistakes():
        need_at_most_one(levels=levels, rewards=rewards)
        law = read_levels(levels) if levels is not None else one_pool(rewards)
        rows = [_tilt_row(law, f"beta {value:g}", value) for value in numbers(beta, "--beta")]
        rows += [_tilt_row(law, f"KL {value:g}", _beta(law, value)) for value in numbers(kl, "--kl")]
        for width in widths(n) if n else []:
            row = _tilt_row(law, f"Best-of-{width:g}", _beta(law, best_of_n.kl(law, width)))
            got = best_of_n.expected_reward(law, width)
            rows.append(row | {"best_of_n_reward": got, "gap": row["reward"] - got})
        if not rows:
            raise OptionError("what to hold the law against", "none of --kl, --beta, --n", "give one, --n 4,16")
        show({"theory": "tilt", "policy_reward": law.mean, "kl_ceiling": best_of_n.kl_ceiling(law)}, rows,
              f"The policy earns {law.mean:.4g}; the {rows[-1]['kl']:.3g} nats of the last row buy at most "
              f"{rows[-1]['reward']:.4g}.", as_json)


def vote(probs: Annotated[str, typer.Option(help="Probability of each answer, 0.4,0.35,0.25.")],
         n: Widths = "1,4,16,64",
         correct: Annotated[int, typer.Option(min=0, help="Place of the correct answer, from 0.")] = 0,
         weights: Annotated[str, typer.Option(help="Mean weight of each answer's votes: the weighted limit.")] = "",
         as_json: AsJson = False) -> None:
    """Majority vote: how often n samples elect the correct answer, against pass@n."""
    from ramify.theory import best_of_n, voting

    with user_mistakes():
        answers = numbers(probs, "--probs")
        rows: list[Row] = [{"n": width, "vote_correct": voting.majority_accuracy(answers, width, correct),
                            "pass_at_n": best_of_n.pass_at_n(answers[correct], width)}
                           for width in whole(widths(n), "--n")]
        shares = voting.weighted_shares(answers, numbers(weights, "--weights") or [1.0] * len(answers))
        winners = [int(place) for place in (shares >= shares.max() * (1 - 1e-12)).nonzero()[0]]
        fate = ("is always elected" if winners == [correct] else "ties" if correct in winners
                else f"loses to answer {winners[0]}")
        show({"theory": "vote", "correct": correct, "limit_shares": shares.tolist(), "limit_winners": winners},
              rows,
              f"{rows[-1]['n']} votes elect the correct answer {rows[-1]['vote_correct']:.1%} of the time; with "
              f"more and more {'weighted ' if weights else ''}votes it {fate}.", as_json)


def infalign(n: Annotated[float, typer.Option("-n", "--n", help="Candidates that will be drawn, real or whole.")] = 4,
             beta: Annotated[float, typer.Option(help="Price of one nat of KL, in win rate.")] = 0.1,
             points: Annotated[int, typer.Option(min=2, max=5000, help="Grid for the calibrated reward.")] = 1000,
             as_json: AsJson = False) -> None:
    """InfAlign: what tuning for Best-of-N wins over tuning for a single answer."""
    from ramify.theory import calibration
    from ramify.theory import tilt as tilts

    with user_mistakes():
        law = calibration.grid(points)
        aware = calibration.aligned_law(law, n, beta)
        spent = calibration.divergence(law, aware)
        plain = tilts.tilt(law, tilts.beta_for_kl(law, spent))
        rows: list[Row] = [{"policy": name, "kl": calibration.divergence(law, probs),
                            "win_rate_single": calibration.win_rate(law, probs, 1),
                            "win_rate_best_of_n": calibration.win_rate(law, probs, n)}
                           for name, probs in (("base", law.probs_L), ("tuned for one answer", plain),
                                               ("tuned for Best-of-n", aware))]
        show({"theory": "infalign", "n": n, "beta": beta}, rows,
              f"For the same {spent:.3g} nats, tuning for Best-of-{n:g} wins {rows[2]['win_rate_best_of_n']:.1%} "
              f"against Best-of-{n:g} of the base; tuning for one answer wins {rows[1]['win_rate_best_of_n']:.1%}.",
              as_json)


# Rows


def _bounds(n: float) -> Row:
    from ramify.theory import best_of_n

    return {"n": n, "kl_bound": best_of_n.kl_bound(n), "win_rate_bound": best_of_n.win_rate_bound(n)}


def _show_exact(law: Law, widths: Sequence[float], as_json: bool) -> None:
    from ramify.theory import best_of_n, tilt

    rows: list[Row] = [_bounds(n) | {"reward": best_of_n.expected_reward(law, n), "kl": best_of_n.kl(law, n),
                                     "win_rate": best_of_n.win_rate(law, n),
                                     "optimum_reward": tilt.optimum_reward(law, best_of_n.kl(law, n))}
                       for n in widths]
    last, ceiling = rows[-1], best_of_n.kl_ceiling(law)
    show({"theory": "bon", "policy_reward": law.mean, "kl_ceiling": ceiling}, rows,
          f"Best-of-{last['n']} lifts the reward from {law.mean:.4g} to {last['reward']:.4g} for "
          f"{last['kl']:.3g} nats, which could buy {last['optimum_reward']:.4g} at best. No n needs more than "
          f"{ceiling:.3g} nats.", as_json)


def _show_estimates(pools: Sequence[Pool], widths: Sequence[float], as_json: bool) -> None:
    rows = [_estimates(pools, n) for n in whole(widths, "--n")]
    last, first = rows[-1], pools[0][0]
    many = f" (95 % of bootstraps: {last['reward_low']:.4g} to {last['reward_high']:.4g})" if len(pools) > 1 else ""
    show({"theory": "bon", "prompts": len(pools), "samples": sum(len(rewards) for rewards, _ in pools)}, rows,
          f"Over {len(pools)} prompts the best of {last['n']} earns {last['reward']:.4g}{many}. The KL is a plug-in: "
          f"too low unless n is far below the samples per prompt ({len(first)} in the first).", as_json)


def _estimates(pools: Sequence[Pool], n: int) -> Row:
    from ramify.theory import best_of_n, intervals, law

    def mean(name: str, values: list[float]) -> Row:
        if len(values) == 1:
            return {name: values[0]}
        low, high = intervals.bootstrap_interval(values)
        return {name: sum(values) / len(values), f"{name}_low": low, f"{name}_high": high}

    plug_in = [best_of_n.kl(law.empirical_law(rewards), n) for rewards, _ in pools]
    row = {"n": n, **mean("reward", [best_of_n.estimate_smaller_n(r, r, n) for r, _ in pools]),
           "kl_plug_in": sum(plug_in) / len(pools), "kl_bound": best_of_n.kl_bound(n)}
    if all(correct for _, correct in pools):
        row |= mean("accuracy", [best_of_n.estimate_smaller_n(r, c, n) for r, c in pools])
        row |= mean("pass_at_n", [best_of_n.estimate_smaller_n(c, c, n) for _, c in pools])
    return row


def _beta(law: Law, kl: float) -> float:
    from ramify.theory import best_of_n, tilt

    return tilt.beta_for_kl(law, kl) if kl < best_of_n.kl_ceiling(law) or kl == 0 else 0.0


def _tilt_row(law: Law, asked: str, beta: float) -> Row:
    from ramify.theory import tilt

    spent, reward = tilt.tilt_point(law, beta)
    return {"asked": asked, "beta": beta if math.isfinite(beta) else None, "kl": spent, "reward": reward}


def _flops(n: int, max_tokens: int, prompt_tokens: int, tokens: Mapping[str, float],
           reread: Mapping[str, float], params: Mapping[str, float | None]) -> Row:
    """FLOPs of the method with and without reward caches and of Best-of-n; nothing if no parameters are given."""
    from ramify.theory import cost

    given = {role: count for role, count in params.items() if count is not None}
    if not given:
        return {}
    bon_tokens = cost.best_of_n_tokens(n, max_tokens, prompt_tokens)
    return {"flops": cost.flops(tokens, given), "flops_reread": cost.flops(reread, given),
            "flops_best_of_n": cost.flops(bon_tokens, given)}


def _flops_in_words(data: Row, n: int) -> str:
    if "flops" not in data:
        return ""
    return f" In all {data['flops']:.3g} FLOPs; Best-of-{n} takes {data['flops_best_of_n']:.3g}."
