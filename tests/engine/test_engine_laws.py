"""What a request returns depends on its prompt, options and seed, and on nothing else."""

from functools import partial

import pytest
import torch
from tiny import EOS, assert_empty, finish, tiny_engine, tiny_model
from twin import Twin

from ramify.cache import PrefixCache
from ramify.engine import Drop, Extend, Fork, Peek, Rewind
from ramify.rewards import ImplicitReward, SequenceReward
from ramify.sampling.draws import KeyedDraws
from ramify.search import best_of_n, sample, self_consistency, speculative_rejection, treebon
from ramify.types import SamplingParams

TARGET, REWARD, POLICY, REFERENCE = (tiny_model(seed) for seed in range(4))
SCORED = SequenceReward(REWARD)
IMPLICIT = ImplicitReward(POLICY, REFERENCE, "decay")
SEARCHES = (
    partial(best_of_n, reward=SCORED, n=4), partial(treebon, reward=SCORED, guide=IMPLICIT, n=6, layers=3, children=2),
    partial(speculative_rejection, reward=SCORED, n=6, first=3), partial(sample, n=2),
    partial(self_consistency, n=3, reward=SCORED, beta=1.0, answer=lambda text: text[:1]),
)  # fmt: skip
LONG = SamplingParams(max_tokens=14)


def tokens(result):
    """Every candidate's tokens and scores, and the choice."""
    return result.chosen, [(row.id, row.token_ids, row.state, [round(score, 9) for _, score in row.scores])
                           for row in result.candidates]  # fmt: skip


def together(engine, **options):
    """One request per search, submitted one step after another."""
    sent = []
    for seed, search in enumerate(SEARCHES):
        sent.append(engine.submit("abcab" + "cd" * seed, search, LONG, seed=seed, **options))
        engine.step()
    finish(engine, sent)
    return [request.outcome for request in sent]


def batch_of_n_is_n_singles():
    results = together(tiny_engine(TARGET))
    for seed, (search, result) in enumerate(zip(SEARCHES, results, strict=True)):
        prompt = "abcab" + "cd" * seed
        alone = tiny_engine(TARGET).result(prompt, search, LONG, seed=seed)
        assert tokens(alone) == tokens(result)
        twin = Twin(TARGET, prompt, LONG, seed).run(search)
        assert result.chosen == ".".join(map(str, twin.path)) and result.text == twin.text
        assert result.reward is None or abs(result.reward - twin.score) < 1e-9


def test_batch_of_n_is_n_singles():
    batch_of_n_is_n_singles()


class RowNumbers(KeyedDraws):
    """Random numbers by place in the batch, as a global generator gives them out."""

    def categorical(self, probs_RV, keys):
        return super().categorical(probs_RV, [key._replace(stream=len(keys) - row) for row, key in enumerate(keys)])


def test_draws_that_know_their_row_are_caught(monkeypatch):
    monkeypatch.setattr("ramify.engine.engine.KeyedDraws", RowNumbers)
    with pytest.raises(AssertionError):
        batch_of_n_is_n_singles()
    with pytest.raises(AssertionError):
        a_candidate_does_not_know_the_width()


def a_candidate_does_not_know_the_width():
    narrow, wide = (tiny_engine(TARGET).result("abcab", partial(best_of_n, reward=SCORED, n=n), LONG, seed=5)
                    for n in (4, 16))
    assert tokens(narrow)[1] == tokens(wide)[1][:4]


def test_a_candidate_does_not_know_the_width():
    a_candidate_does_not_know_the_width()


def test_the_seed_decides():
    engine = tiny_engine(TARGET)
    first, again, other = (engine.result("abcab", SEARCHES[0], LONG, seed=seed) for seed in (7, 7, 8))
    assert tokens(first) == tokens(again) != tokens(other)


def test_greedy_is_argmax():
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    result = tiny_engine(TARGET, step_tokens=2).result("abcab", partial(sample, n=2), params)
    ids = TARGET.tokenizer.encode_prompt("abcab")
    for _ in range(12):
        ids.append(TARGET.decoder.logits(TARGET.decoder.dense(tuple(ids))[-1]).argmax().item())
    assert [row.token_ids for row in result.candidates] == [ids[5:]] * 2


PROMPTS = ("abcabdda", "abcabcc", "abcab", "abcabddafe", "dabcab")
SHARED = (0, 5, 5 - 1, 8, 0)  # with an earlier prompt; the last token is always read


def with_prefixes(prefix_cache):
    engine = tiny_engine(TARGET, prefix_cache=prefix_cache)
    results = [engine.result(prompt, SEARCHES[0], LONG, seed=1) for prompt in PROMPTS]
    assert_empty(engine)
    return results


def prefixes_change_the_cost_alone():
    warm, cold = with_prefixes(True), with_prefixes(False)
    assert [tokens(result) for result in warm] == [tokens(result) for result in cold]
    for prompt, shared, result, other in zip(PROMPTS, SHARED, warm, cold, strict=True):
        for role in ("target", "reward"):
            page, without = result.usage.role(role), other.usage.role(role)
            assert without.prefill - page.prefill == shared == page.cached - without.cached
        assert result.usage.target.prefill == len(prompt) - shared


def test_prefixes_change_the_cost_alone():
    prefixes_change_the_cost_alone()


def test_a_prefix_cache_that_confuses_prompts_is_caught(monkeypatch):
    insert = PrefixCache.insert
    monkeypatch.setattr(PrefixCache, "insert", lambda cache, ids, table: insert(cache, [*ids[:-1], ids[-1] ^ 2], table))
    with pytest.raises(AssertionError):
        prefixes_change_the_cost_alone()


def one(prompt, *, log, tokens, **_):
    """A candidate, its log-probabilities under the target and under another model, then the same after a fork."""
    [first] = yield Fork(prompt, 1)
    yield Extend([first], tokens=tokens)
    children = yield Fork(first, 2)
    yield Extend(children)
    for sequence in children:
        [own] = yield Peek([sequence], None, "target")
        [other] = yield Peek([sequence], POLICY32, "reward")
        log.append((list(sequence.tokens), own, other))
    return first


TARGET32, POLICY32 = tiny_model(0, dtype=torch.float32), tiny_model(2, dtype=torch.float32)


def test_float32_stays_within_rounding_of_the_dense_forward():
    log, params = [], SamplingParams(max_tokens=20, ignore_eos=True)
    tiny_engine(TARGET32, step_tokens=7).result("abcab", partial(one, log=log, tokens=6), params)
    ids = TARGET32.tokenizer.encode_prompt("abcab")
    for answer, *seen in log:
        assert len(answer) == 20
        for model, logprobs in zip((TARGET32, POLICY32), seen, strict=True):
            hidden_TD = model.decoder.dense((*ids, *answer))[4:-1]
            dense_TV = model.decoder.logits(hidden_TD).log_softmax(-1)
            want = dense_TV.gather(-1, torch.tensor(answer)[:, None])[:, 0]
            assert (torch.tensor(logprobs) - want).abs().max() < 1e-4


def back_and_forth(prompt, *, log):
    group = yield Fork(prompt, 4)
    for _ in range(3):
        yield Extend(group, tokens=8)
        log.append([(list(sequence.tokens), sequence.text, list(sequence.logprobs)) for sequence in group])
        yield Rewind(group, 3)
    return group[0]


def test_a_rewind_draws_afresh():
    log = []
    tiny_engine(TARGET).result("abcab", partial(back_and_forth, log=log), SamplingParams(max_tokens=8, ignore_eos=True))
    for turns in zip(*log, strict=True):
        assert len({tuple(ids[:3]) for ids, _, _ in turns}) == 1
        assert len({tuple(ids) for ids, _, _ in turns}) == 3
        for ids, text, logprobs in turns:
            assert text == TARGET.tokenizer.decode(ids) and len(ids) == len(logprobs) == 8


def test_a_dropped_candidate_can_be_taken_back():
    def drop_and_return(prompt):
        group = yield Fork(prompt, 2)
        yield Extend(group, tokens=6)
        yield Drop(group)
        yield Rewind(group, 2)
        children = yield Fork(group[0], 2)
        yield Extend([*group, *children])
        return children[1]

    engine, params = tiny_engine(TARGET), SamplingParams(max_tokens=10)
    result = engine.result("abcab", drop_and_return, params, seed=2)
    assert result.text == Twin(TARGET, "abcab", params, 2).run(drop_and_return).text
    assert all(row.dropped_at is None and row.state != "dropped" for row in result.candidates)
    assert_empty(engine)


def test_the_end_of_sequence_ends_an_answer_unless_ignored():
    ended, ignored = (tiny_engine(TARGET).result("abcab", partial(sample, n=8), SamplingParams(max_tokens=12, **way))
                      for way in ({}, {"ignore_eos": True}))
    assert any(row.state == "finished" for row in ended.candidates)
    for row, longer in zip(ended.candidates, ignored.candidates, strict=True):
        assert (row.state == "finished") == (row.token_ids[-1] == EOS) and EOS not in row.token_ids[:-1]
        assert longer.tokens == 12 and longer.state == "length"
        assert longer.token_ids[: row.tokens] == row.token_ids
