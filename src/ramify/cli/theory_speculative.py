"""The commands of `ramify theory` about speculative decoding: rejections, speed-ups, what a lossy rule buys."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from ramify.cli.theory_input import numbers, pairs, user_mistakes, whole
from ramify.cli.theory_output import AsJson, Row, cell, show
from ramify.errors import OptionError

Draft = Annotated[str, typer.Option(help="Draft's probability of each token, 0.5,0.3,0.2.")]
Target = Annotated[str, typer.Option(help="Target's probability of each token.")]


def speculative(
        acceptance: Annotated[float, typer.Option(help="Chance that a draft token is accepted.")],
        length: Annotated[str, typer.Option(help="Draft tokens per target call: one number or several.")] = "4",
        cost: Annotated[float, typer.Option(help="Time of a draft step over that of a target step.")] = 0.1,
        rows: Annotated[str, typer.Option(help="Sequences decoded together, 1,8,64; needs --seconds.")] = "1",
        seconds: Annotated[str | None, typer.Option(help="Measured time of a target pass by its tokens, "
                                                         "1:0.010,64:0.011,512:0.04.")] = None,
        operations: Annotated[float | None, typer.Option(help="Arithmetic of the draft per token over that of "
                                                              "the target; adds a column.")] = None,
        as_json: AsJson = False) -> None:
    """Draft length: tokens per target call, speed-up, the best length.

    Without --seconds a target pass takes as long over 1 + length tokens as over one.
    """
    from ramify.theory import speculative_cost as theory

    with user_mistakes():
        widths, lengths = whole(numbers(rows, "--rows"), "--rows"), whole(numbers(length, "--length"), "--length")
        if not widths or not lengths:
            raise OptionError("a number for --rows and --length", "nothing", "give one or several, 1,4,8")
        if seconds is None and widths != [1]:
            raise OptionError("--seconds for several rows", "none", "measure target passes, 1:0.010,64:0.011,512:0.04")
        measured = _table(seconds)

        def speedup(width: int, tokens: int) -> float:
            if measured:
                return theory.batched_speedup(acceptance, tokens, cost, width, measured)
            return theory.speedup(acceptance, tokens, cost)

        table: list[Row] = [
            {"rows": width, "length": tokens, "tokens_per_call": theory.expected_tokens(acceptance, tokens),
             "rejections_per_100_tokens": 100 * theory.rejections_per_token(acceptance, tokens),
             "speedup": speedup(width, tokens)}
            | ({} if operations is None
               else {"operations": theory.operation_factor(acceptance, tokens, operations)})
            for width in widths for tokens in lengths]
        best: list[Row] = []
        for width in widths:
            top = (theory.best_batched_length(acceptance, cost, width, measured) if measured
                   else theory.best_length(acceptance, cost))
            longest = max(measured) // width - 1 if measured else theory.LONGEST
            best.append({"rows": width, "length": top, "speedup": speedup(width, top), "longest_tried": longest})
        most = 100 * (1 - acceptance)
        show({"theory": "speculative", "acceptance": acceptance, "cost": cost, "best": best,
              "rejections_per_100_tokens_at_most": most}, table,
             f"{' '.join(map(_advice, best))} However long the drafts, there are at most {cell(most)} rejections in "
             f"100 tokens.", as_json)


def rejections(
        draft: Draft, target: Target,
        tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 50,
        drafts: Annotated[str, typer.Option(help="Drafts for one position: one number or several.")] = "1,2,4",
        as_json: AsJson = False) -> None:
    """Rejections in an answer, with one draft or several; what each verifier accepts.

    The same two distributions at every position; drafts as long as the answer.
    """
    from ramify.theory import speculative as theory
    from ramify.theory import speculative_drafts as verifiers

    with user_mistakes():
        p, q = numbers(draft, "--draft"), numbers(target, "--target")
        rows: list[Row] = []
        for count in whole(numbers(drafts, "--drafts"), "--drafts"):
            expected = theory.chain_rejections(p, q, tokens, count)
            few = verifiers.sibling_orders(p, count) <= verifiers.MOST_ORDERS
            rows.append({"drafts": count, "rejections": expected, "target_calls": expected + 1,
                         "accepts_independent": verifiers.recursive_acceptance(p, q, count),
                         "accepts_k_sequential": verifiers.k_sequential(p, q, count)[1],
                         "accepts_without_replacement":
                             verifiers.without_replacement_acceptance(p, q, count) if few else None,
                         "bound_for_independent": verifiers.iid_bound(p, q, count)})
        if not rows:
            raise OptionError("a number of drafts for --drafts", "nothing", "give one or several, 1,2,4")
        distance, limit = theory.tv(p, q), theory.chain_rejections(p, q, tokens, math.inf)
        show({"theory": "rejections", "tokens": tokens, "tv": distance, "rejections_with_endless_drafts": limit}, rows,
             f"One draft is rejected {distance:.1%} of the time, so {tokens:,} tokens take {cell(tokens * distance)} "
             f"rejections, the fewest for one draft if nothing is lost. With ever more drafts after each rejection "
             f"they tend to {cell(limit)}.", as_json)


def pareto(
        draft: Draft, target: Target,
        epsilon: Annotated[str, typer.Option(help="Accept with min(1, (q + epsilon)/p).")] = "0,0.05,0.1,0.2",
        lenience: Annotated[str, typer.Option(help="Accept with min(1, q/(lenience p)), 1,0.7.")] = "",
        as_json: AsJson = False) -> None:
    """What a lossy rule buys: fewer rejections, against distance from the target."""
    from ramify.theory import speculative as theory

    with user_mistakes():
        p, q = numbers(draft, "--draft"), numbers(target, "--target")
        rules = [(f"epsilon {value:g}", theory.epsilon_rule(p, q, value)) for value in numbers(epsilon, "--epsilon")]
        rules += [(f"lenience {value:g}", theory.lenience_rule(p, q, value))
                  for value in numbers(lenience, "--lenience")]
        if not rules:
            raise OptionError("a rule to judge", "neither --epsilon nor --lenience", "give one, --epsilon 0.05")
        rows: list[Row] = []
        for name, accept in rules:
            rejected, lost = theory.pareto_point(p, q, accept)
            rows.append({"rule": name, "acceptance": 1 - rejected, "rejections_per_100_tokens": 100 * rejected,
                         "loss": lost})
        distance = theory.tv(p, q)
        show({"theory": "pareto", "tv": distance}, rows,
             f"Rejection and loss always add up to {cell(distance)}, the total variation between draft and target: "
             f"the shape of the rule buys nothing, only how much of it there is.", as_json)


def _table(seconds: str | None) -> dict[int, float]:
    if seconds is None:
        return {}
    tokens, times = pairs(seconds, "--seconds", "tokens:seconds", "1:0.010,64:0.011,512:0.04")
    return dict(zip(whole(tokens, "--seconds"), times, strict=True))


def _advice(best: Row) -> str:
    rows = f"With {best['rows']} rows: " if best["rows"] > 1 else ""
    more = " among the lengths tried" if best["length"] == best["longest_tried"] else ""
    if not best["length"]:
        return f"{rows}Plain decoding is the fastest{more}."
    return f"{rows}Drafts of {best['length']} are the fastest, {best['speedup']:.2f} times plain decoding{more}."
