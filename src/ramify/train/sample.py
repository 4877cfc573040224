"""Plain batched sampling for making training data; serving has its own engine."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ramify.train.models import Trunk, transformers_module

COMPACT_EVERY = 8  # tokens between looks for finished rows to throw out of the batch


@torch.inference_mode()
def sample(model: Trunk, prompts: Sequence[Sequence[int]], *, n: int, max_tokens: int, eos: int, pad: int,
           temperature: float = 1.0, seed: int = 0, rows: int = 256) -> list[list[list[int]]]:  # fmt: skip
    """`n` independent samples from the model at `temperature` for each prompt; temperature 0 is greedy.

    A sample holds its `<|eos|>` unless it was cut at `max_tokens`. The result depends on `seed`, the prompts
    and `rows`, the number of sequences decoded at a time. Cost: one prefill a prompt, one forward a token.
    """
    generator = torch.Generator().manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # similar lengths finish together
    samples: list[list[list[int]]] = [[] for _ in prompts]
    width = max(1, rows // n)
    for first in range(0, len(order), width):
        chosen = order[first : first + width]
        texts = _decode([prompts[i] for i in chosen], model, n, max_tokens, eos, pad, temperature, generator)
        for place, i in enumerate(chosen):
            samples[i] = texts[place * n : (place + 1) * n]
    return samples


def _decode(prompts: list[Sequence[int]], model: Trunk, n: int, max_tokens: int, eos: int, fill: int,
            temperature: float, generator: torch.Generator) -> list[list[int]]:  # fmt: skip
    """Rows are left-padded to one length; row b of the result continues prompt b // n."""
    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[*[fill] * (longest - len(p)), *p] for p in prompts])
    seen_BT = torch.tensor([[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts])
    position_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)
    cache = transformers_module().DynamicCache(config=model.config)
    out = model(input_ids=ids_BT, attention_mask=seen_BT, position_ids=position_BT, past_key_values=cache)
    cache.batch_repeat_interleave(n)
    logits_BV = out.logits[:, -1].repeat_interleave(n, 0)
    seen_BT, position_B = seen_BT.repeat_interleave(n, 0), position_BT[:, -1].repeat_interleave(n, 0)
    texts: list[list[int]] = [[] for _ in range(len(prompts) * n)]
    live_B = torch.arange(len(texts))
    for step in range(max_tokens):
        token_B = draw(logits_BV, temperature, generator)
        for row, token in zip(live_B.tolist(), token_B.tolist(), strict=True):
            if not texts[row] or texts[row][-1] != eos:
                texts[row].append(token)
        if step % COMPACT_EVERY == COMPACT_EVERY - 1:
            kept = torch.tensor([b for b, row in enumerate(live_B.tolist()) if texts[row][-1] != eos])
            if not len(kept):
                break
            cache.batch_select_indices(kept)
            live_B, token_B, seen_BT, position_B = (x[kept] for x in (live_B, token_B, seen_BT, position_B))
        seen_BT = torch.cat([seen_BT, seen_BT.new_ones(len(live_B), 1)], 1)
        position_B = position_B + 1
        out = model(
            input_ids=token_B[:, None],
            attention_mask=seen_BT,
            position_ids=position_B[:, None],
            past_key_values=cache,
        )
        logits_BV = out.logits[:, -1]
    return texts


def draw(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token a row from softmax(logits / temperature); the largest logit if the temperature is 0."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    return torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator)[:, 0]
