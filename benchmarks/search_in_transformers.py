"""Best-of-N, TreeBoN and Speculative Rejection as a careful user of transformers would write them.

`generate` grows all candidates as one batch, and after a cut goes on from its own cache. The reward is a sequence
classifier over whole texts, padded to the longest. Schedules and defaults are those of `ramify.search`, so the answers
of both sides have the same law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


@dataclass(slots=True, eq=False)
class Answer:
    """A candidate's tokens, whether they go on, and the last reward."""

    ids: list[int]
    ended: bool
    reward: float = -math.inf


@dataclass(slots=True)
class Batch:
    """Texts of one length, the first `prompt` ids the prompt, what `generate` has cached of them, and the answers."""

    ids_RT: Tensor
    prompt: int
    cache: Any
    answers: list[Answer]

    @property
    def length(self) -> int:
        """Answer tokens of a row that goes on."""
        return self.ids_RT.shape[1] - self.prompt

    def keep(self, answers: list[Answer], copies: int = 1) -> Batch:
        """Only the rows of these answers, each so many times."""
        rows_R = torch.tensor([self.answers.index(answer) for answer in answers]).repeat_interleave(copies)
        self.cache.batch_select_indices(rows_R)
        return Batch(self.ids_RT[rows_R], self.prompt, self.cache, [self.answers[row] for row in rows_R])


@dataclass(slots=True)
class Count:
    """Positions that the policy and the reward model computed, padding included, and answer tokens drawn."""

    read: int = 0
    judged: int = 0
    written: int = 0


class Searches:
    """The three searches for answers of at most `max_tokens` tokens, in float32."""

    def __init__(self, policy: str | Path, reward: str | Path, max_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(policy)
        self.policy = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()
        self.judge = AutoModelForSequenceClassification.from_pretrained(reward, dtype=torch.float32).eval()
        self.end, self.pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        self.max_tokens, self.count = max_tokens, Count()

    def best_of_n(self, question: str, n: int) -> Answer:
        """Draw n answers and return the one with the highest reward."""
        drawn = self.extend(self.read(question), self.max_tokens, n)
        return max(self.score(drawn, drawn.answers), key=reward_of)

    def treebon(self, question: str, n: int, layers: int = 4, children: int = 4) -> Answer:
        """Grow n answers by segments; after each the best n / children go on, as so many children each."""
        segment, ended = math.ceil(self.max_tokens / layers), list[Answer]()
        alive = self.extend(self.read(question), segment, n)
        for layer in range(1, layers):
            ended += [answer for answer in alive.answers if answer.ended]
            growing = [answer for answer in alive.answers if not answer.ended]
            if not growing:
                return max(self.score(alive, ended), key=reward_of)
            best = sorted(self.score(alive, growing), key=reward_of, reverse=True)[: max(1, n // children)]
            alive = self.extend(alive.keep(best, children), segment if layer < layers - 1 else self.max_tokens)
        return max(self.score(alive, ended + alive.answers), key=reward_of)

    def speculative_rejection(self, question: str, n: int, alpha: float = 0.5) -> Answer:
        """Each time the answers fill n * max_tokens / 4 tokens, only the best 1 - alpha of them stay."""
        memory, kept = n * math.ceil(self.max_tokens / 4), list[Answer]()
        batch, staying = self.extend(self.read(question), memory // n, n), list[Answer]()
        while True:
            staying = [answer for answer in staying if answer.ended] + batch.answers
            self.score(batch, batch.answers)
            count = max(1, len(staying) - math.floor(alpha * len(staying)))
            staying = sorted(staying, key=reward_of, reverse=True)[:count]
            kept += [answer for answer in staying if answer.ended and answer not in kept]
            growing = [answer for answer in batch.answers if answer in staying and not answer.ended]
            if not growing:
                return max(kept, key=reward_of)
            room = memory - sum(len(answer.ids) for answer in staying)
            last = math.floor(alpha * len(staying)) == 0  # nobody is left to be dropped
            batch = self.extend(batch.keep(growing), self.max_tokens if last else max(1, room // len(growing)))

    def read(self, question: str) -> Batch:
        """The prompt alone."""
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False,
                                                  add_generation_prompt=True)
        ids_1T = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return Batch(ids_1T, ids_1T.shape[1], None, [])

    def extend(self, batch: Batch, tokens: int, samples: int = 1) -> Batch:
        """So many samples of every row, grown by at most `tokens` tokens."""
        out = self.policy.generate(
            batch.ids_RT, attention_mask=torch.ones_like(batch.ids_RT), past_key_values=batch.cache, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=samples, eos_token_id=self.end,
            max_new_tokens=min(tokens, self.max_tokens - batch.length), pad_token_id=self.pad,
            return_dict_in_generate=True)
        rows = [row[: row.index(self.end) + 1] if self.end in row else row
                for row in out.sequences[:, batch.prompt :].tolist()]
        answers = [Answer(row, row[-1] == self.end or len(row) == self.max_tokens) for row in rows]
        # The last token of a text is not in the cache.
        known = batch.ids_RT.shape[1] - 1 if batch.cache is not None else 0
        self.count.read += len(rows) * (out.sequences.shape[1] - 1 - known)
        self.count.written += sum(len(row) - batch.length for row in rows)
        return Batch(out.sequences, batch.prompt, out.past_key_values, answers)

    @torch.inference_mode()
    def score(self, batch: Batch, answers: list[Answer]) -> list[Answer]:
        """Let the reward model read the prompt with each answer, finished or not. Returns the answers."""
        prompt = batch.ids_RT[0, : batch.prompt].tolist()
        texts = [torch.tensor(prompt + answer.ids) for answer in answers]
        ids_RT = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self.pad)
        scores_R1 = self.judge(ids_RT, attention_mask=(ids_RT != self.pad).long()).logits
        for answer, score in zip(answers, scores_R1[:, 0].tolist(), strict=True):
            answer.reward = score
        self.count.judged += ids_RT.numel()
        return answers


def reward_of(answer: Answer) -> float:
    """What answers are ranked by."""
    return answer.reward
