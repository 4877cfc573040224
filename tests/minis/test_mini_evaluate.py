"""The model card's numbers mean what they say; checked on attempts and models small enough to do by hand."""

import pytest
import torch

from ramify.minis.evaluate import best_of, draft_report, pass_rates, ranking_accuracy
from ramify.train.models import new_llama
from ramify.train.reward import Judged


def attempt(correct, group):
    return Judged([0, 3, 4, 1], 2, correct, group)


TRIES = [attempt(True, 0), attempt(False, 0), attempt(False, 0), attempt(True, 1), attempt(True, 1), attempt(False, 2)]


def test_pass_rates():
    assert pass_rates([TRIES[:2], TRIES[3:5], [TRIES[5]] * 2]) == {"pass@1": 0.5, "pass@2": 2 / 3}
    assert pass_rates([TRIES[:1], TRIES[1:2]]) == {"pass@1": 0.5}


def test_ranking_compares_within_a_problem_only():
    assert ranking_accuracy([1.0, 0.0, 2.0, 9.0, 9.0, 9.0], TRIES) == 0.5
    assert ranking_accuracy([1.0, 1.0, 0.0, 0.0, 0.0, 9.0], TRIES) == 0.75
    across = sum(r > w for r in (1.0, 0.0, 0.0) for w in (1.0, 0.0, 9.0)) / 9
    assert across != 0.75  # what comparing every right with every wrong attempt would give


def test_best_of_takes_the_highest_score_of_each_problem():
    assert best_of([1.0, 0.0, 2.0, 9.0, 8.0, 7.0], TRIES) == pytest.approx(1 / 3)
    assert best_of([3.0, 0.0, 2.0, 9.0, 8.0, 7.0], TRIES) == pytest.approx(2 / 3)


def tiny(seed):
    torch.manual_seed(seed)
    model = new_llama(6, hidden=16, inner=16, layers=1, heads=1, kv_heads=1, context=64, bos=0, eos=1, pad=2)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    torch.nn.init.normal_(model.model.norm.weight)  # else tied embeddings predict the token just read
    return model.eval()


@torch.inference_mode()
def law(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)


def speculate(draft, target, prompt, length, depth):
    """Real speculative decoding, one sequence, one forward a token: the text, its calls, and which tests passed."""
    ids, calls, tests = list(prompt), 0, []
    while len(ids) < len(prompt) + length:
        calls += 1
        for ahead in range(depth):
            p, q = law(draft, ids), law(target, ids)
            token = int(torch.multinomial(p, 1))
            passed = torch.rand(()) < q[token] / p[token]
            if len(ids) < len(prompt) + length:
                tests.append((ahead, bool(passed)))
            if not passed:
                ids.append(int(torch.multinomial((q - p).clamp(min=0), 1)))
                break
            ids.append(token)
        else:
            ids.append(int(torch.multinomial(law(target, ids), 1)))
    return ids[: len(prompt) + length], calls, tests


def test_the_report_says_what_real_speculation_does():
    draft, target = tiny(0), tiny(1)
    torch.manual_seed(0)
    runs = [speculate(draft, target, [0, 3], 20, 3) for _ in range(60)]
    real = 60 * 20 / sum(calls for _, calls, _ in runs)
    tries = [Judged(ids, 2, True, 0) for ids, _, _ in runs]
    report = draft_report(draft, target, tries, depth=3)
    assert report["tokens_per_call"] == pytest.approx(real, rel=0.08)
    assert real < 3.2  # the two models differ enough for this to say something
    for ahead in range(3):
        passed = [ok for _, _, tests in runs for at, ok in tests if at == ahead]
        assert report[f"acceptance@{ahead + 1}"] == pytest.approx(sum(passed) / len(passed), abs=0.08)


def test_the_report_of_one_text_by_hand():
    """Three tokens, drafts of two: a call begins at the second if the first was refused, and so on."""
    draft, target, ids = tiny(0), tiny(1), [0, 3, 4, 5, 1]
    p, q = ([law(model, ids[: 2 + n]) for n in range(3)] for model in (draft, target))
    a, b, _ = (min(1.0, float(p[n][ids[2 + n]] / q[n][ids[2 + n]])) for n in range(3))
    overlap = [float(torch.minimum(p[n], q[n]).sum()) for n in range(3)]
    begins = [1.0, 1 - a, a * (1 - b) + (1 - a) * (1 - b)]
    report = draft_report(draft, target, [Judged(ids, 2, True, 0)], depth=2)
    assert report["tokens_per_call"] == pytest.approx(3 / sum(begins), rel=1e-5)
    assert report["acceptance"] == pytest.approx(sum(overlap) / 3, rel=1e-5)
    first = sum(x * y for x, y in zip(begins, overlap, strict=True)) / sum(begins)
    second = (a * overlap[1] + begins[1] * b * overlap[2]) / (a + begins[1] * b)
    assert report["acceptance@1"] == pytest.approx(first, rel=1e-5)
    assert report["acceptance@2"] == pytest.approx(second, rel=1e-5)


def test_a_draft_equal_to_its_target_is_always_accepted():
    model = tiny(0)
    report = draft_report(model, model, [Judged([0, 3, *[4] * 11], 2, True, 0)], depth=4)
    assert report["acceptance"] == pytest.approx(1.0, abs=1e-6)
    assert report["tokens_per_call"] == pytest.approx(11 / 3, rel=1e-5)
