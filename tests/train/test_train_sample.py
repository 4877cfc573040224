"""The training sampler agrees with one plain forward after another, whatever the batch."""

import torch

from ramify.train.sample import sample


def plain_greedy(model, prompt, most, eos):
    ids = list(prompt)
    while len(ids) - len(prompt) < most:
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    return ids[len(prompt) :]


def varied(make_model):
    """A model whose greedy texts differ in length and content."""
    model = make_model(seed=3).eval()
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    return model


def test_greedy_in_ragged_batches_equals_one_by_one(make_model):
    model = varied(make_model)
    prompts = [[0, 5], [0, 6, 7, 8], [0, 9, 3], [0, 4], [0, 10, 11, 3, 4]]
    alone = [plain_greedy(model, prompt, 12, eos=1) for prompt in prompts]
    assert len(set(map(tuple, alone))) > 1
    for rows in (1, 3, 8):
        found = sample(model, prompts, n=1, max_tokens=12, eos=1, pad=2, temperature=0.0, rows=rows)
        assert [texts[0] for texts in found] == alone


def test_draws_follow_the_model(make_model):
    model = varied(make_model)
    prompt = [0, 5, 6]
    with torch.inference_mode():
        law = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    [texts] = sample(model, [prompt], n=4000, max_tokens=1, eos=1, pad=2, seed=4, rows=4000)
    counts = torch.bincount(torch.tensor([text[0] for text in texts]), minlength=len(law)) / len(texts)
    assert 0.5 * (counts - law).abs().sum() < 0.05
    assert 0.5 * (counts - law.flip(0)).abs().sum() > 0.05


def test_seed_decides_and_texts_stop_at_the_end_token(make_model):
    model = make_model().eval()
    first, again, other = (
        sample(model, [[0, 5]], n=20, max_tokens=20, eos=1, pad=2, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert all(1 not in text[:-1] for text in first[0])
    assert any(text[-1] == 1 for text in first[0])
