"""Rows: what a method did to a question, kept and resumed."""

import pytest

from ramify.bench.questions import Question
from ramify.bench.run import Cell, GeneratedTokens, measure
from ramify.errors import DataError, OptionError
from ramify.search import METHODS

SAMPLING = {"max_tokens": 8}


def rows_of(llm, cells, questions, done=None, seed=0):
    done, written = {} if done is None else done, []
    measure(llm, cells, questions, seed=seed, sampling=SAMPLING, done=done, write=written.append)
    return done, written


def test_a_row_is_what_generate_returns(llm, questions):
    cell = Cell("speculative_rejection", 6, {"first": 2})
    done, _ = rows_of(llm, [cell], questions)
    for index, question in enumerate(questions):
        result = llm.generate(question.prompt, cell.method, n=6, first=2, seed=cell.seed(0, index), **SAMPLING)
        row = done[cell.key][index]
        assert (row["text"], row["reward"]) == (result.text, result.reward)
        assert row["tokens"] == {"target": result.usage.target.tokens, "reward": result.usage.reward.tokens}
        assert sum(row["flops"].values()) == result.usage.flops
        assert row["correct"] == result.text.startswith("b") and not row["judged"]


def test_questions_and_the_pool_draw_from_seeds_of_their_own():
    cell, pool = Cell("best_of_n", 4), Cell("best_of_n", 4, pool=True)
    seeds = [which.seed(seed, index) for which in (cell, pool) for seed in (0, 1) for index in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert cell.seed(0, 3) == Cell("treebon", 8).seed(0, 3)


def test_methods_that_do_not_score_are_judged_outside_their_ledger(llm, questions):
    cells = [Cell("sample", 1), Cell("best_of_n", 1)]
    done, _ = rows_of(llm, cells, questions)
    for plain, scored in zip(done["sample n=1"].values(), done["best_of_n n=1"].values(), strict=True):
        assert plain["judged"] and "reward" not in plain["tokens"]
        assert not scored["judged"] and scored["tokens"]["reward"] > 0
    by_index = [{row["question"]: (row["text"], row["reward"]) for row in done[cell.key].values()} for cell in cells]
    assert by_index[0] == by_index[1]


def test_finished_rows_are_not_run_again(llm, questions):
    cells = [Cell("best_of_n", 3), Cell("sample", 1)]
    complete, written = rows_of(llm, cells, questions)
    assert len(written) == 3 * len(questions)  # two cells, and one of them judged
    kept = {"best_of_n n=3": dict(list(complete["best_of_n n=3"].items())[:2])}
    resumed, again = rows_of(llm, cells, questions, kept)
    assert len(again) == len(written) - 2

    def worth(rows):
        return {key: {index: (row["text"], row["reward"]) for index, row in cell.items()} for key, cell in rows.items()}

    assert worth(resumed) == worth(complete)


def test_rows_of_other_problems_are_refused(llm, questions):
    done, _ = rows_of(llm, [Cell("sample", 1)], questions)
    others = [Question("bab", str.isalpha), *questions[1:]]
    with pytest.raises(DataError, match="another problem 0"):
        rows_of(llm, [Cell("sample", 1)], others, done)


def test_unknown_options_are_refused_before_the_first_answer(llm, questions):
    written = []
    with pytest.raises(OptionError, match="layers"):
        measure(llm, [Cell("sample", 1), Cell("best_of_n", 2, {"layers": 3})], questions, seed=0, sampling=SAMPLING,
                done={}, write=written.append)
    assert written == []


def drawn(llm, method, options):
    """Tokens that the engine really committed, counted where they are drawn."""
    count, draws = 0, llm.engine.loop.draws
    real = draws.categorical

    def counting(probs_RV, keys):
        nonlocal count
        count += len(keys)
        return real(probs_RV, keys)

    draws.categorical = counting
    try:
        counter = GeneratedTokens()
        llm.generate("ab", method, trace=counter.note, **options, **SAMPLING)
    finally:
        del draws.categorical
    return counter.total, count


@pytest.mark.parametrize("method", sorted(METHODS))
def test_generated_tokens_are_the_draws(llm, method):
    options = {"treebon": {"n": 6, "children": 3, "segment": 2}, "speculative_rejection": {"n": 6, "first": 2}}
    total, count = drawn(llm, method, options.get(method, {"n": 3}))
    assert total == count > 0
