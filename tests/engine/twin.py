"""What a search means, without engine, batch or cache: every number from a whole dense forward."""

import torch

from ramify.engine import Drop, Extend, Fork, Group, Peek, Prompt, Read, Rewind, Score
from ramify.sampling.draws import CHOICE, TOKEN, Key, KeyedDraws, mix
from ramify.sampling.transforms import probabilities


class Plain:
    """A candidate: its tokens and nothing else to go stale."""

    def __init__(self, prompt, tokens, scores, state, path, stream):
        self.prompt, self.tokens, self.scores, self.state = prompt, tokens, scores, state
        self.path, self.stream, self.forks, self.cut_at = path, stream, 0, None

    @property
    def live(self):
        return self.state == "live"

    @property
    def finished(self):
        return self.state in ("finished", "length")

    @property
    def score(self):
        return self.scores[-1][1]

    @property
    def text(self):
        return self.prompt.decode(self.tokens)[: self.cut_at]


class Twin:
    """Runs one search on `target`. Costs a dense forward per token."""

    def __init__(self, target, messages, params, seed):
        self.target, self.stream, self.choices = target, mix(seed), 0
        ids = target.tokenizer.encode_prompt(messages)
        self.prompt = Prompt(ids, messages, params, self.choose, target.tokenizer.decode, 4096)
        self.root = Plain(self.prompt, [], [], "live", (), self.stream)

    def choose(self, count):
        self.choices += 1
        return KeyedDraws().uniform_index(count, Key(self.stream, self.choices, CHOICE))

    def run(self, search):
        """The search's return value."""
        generator, reply = search(self.prompt), None
        while True:
            try:
                command = generator.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = self.reply(command)

    def reply(self, command):
        match command:
            case Fork(source, count):
                parents = source if isinstance(source, list) else [self.root if source is self.prompt else source]
                return Group([self.fork(parent) for parent in parents for _ in range(count)], self.choose)
            case Extend(sequences, tokens):
                for sequence in sequences:
                    turns = range(self.prompt.params.max_tokens if tokens is None else tokens)
                    for _ in turns:
                        if sequence.live:
                            self.grow(sequence)
            case Score(sequences, reward):
                scores = self.run(lambda _: reward.score(sequences))
                for sequence, score in zip(sequences, scores, strict=True):
                    sequence.scores.append((len(sequence.tokens), score))
                return scores
            case Drop(sequences):
                for sequence in sequences:
                    sequence.state = "dropped"
            case Rewind(sequences, length):
                for sequence in sequences:
                    self.rewind(sequence, length)
            case Peek(sequences, model, _):
                return [self.logprobs(sequence, model or self.target) for sequence in sequences]
            case Read(sequences, model, _, closed):
                return [self.value(sequence, model, closed) for sequence in sequences]

    def fork(self, parent):
        parent.forks += 1
        stream = mix(parent.stream, parent.forks)
        path = (*parent.path, parent.forks - 1)
        child = Plain(self.prompt, list(parent.tokens), list(parent.scores), parent.state, path, stream)
        child.cut_at = parent.cut_at
        return child

    def rewind(self, sequence, length):
        if length < len(sequence.tokens):
            del sequence.tokens[length:]
            sequence.scores = [pair for pair in sequence.scores if pair[0] <= length]
            sequence.state, sequence.cut_at, sequence.stream = "live", None, mix(sequence.stream, -1)

    def grow(self, sequence):
        params, tokens = self.prompt.params, sequence.tokens
        hidden_TD = self.target.decoder.dense((*self.prompt.ids, *tokens))
        logits_1V = self.target.decoder.logits(hidden_TD[-1:])
        probs_1V = probabilities(logits_1V, params, [tokens], self.prompt.ids)
        tokens += KeyedDraws().categorical(probs_1V, [Key(sequence.stream, len(tokens), TOKEN)])
        text = self.prompt.decode(tokens)
        stops = [text.index(word) for word in params.stop if word in text]
        if tokens[-1] in self.target.tokenizer.eos_ids and not params.ignore_eos:
            sequence.state = "finished"
        elif stops:
            sequence.state, sequence.cut_at = "finished", min(stops)
        elif len(tokens) == params.max_tokens:
            sequence.state = "length"

    def logprobs(self, sequence, model):
        """log p(answer token | prompt, tokens before) under a model that shares the target's tokens."""
        start = len(self.prompt.ids)
        hidden_TD = model.decoder.dense((*self.prompt.ids, *sequence.tokens))[start - 1 : -1]
        logprobs_TV = model.decoder.logits(hidden_TD).log_softmax(-1)
        return logprobs_TV.gather(-1, torch.tensor(sequence.tokens, dtype=torch.long)[:, None])[:, 0].tolist()

    def value(self, sequence, model, closed):
        tokenizer = model.tokenizer
        ended = sequence.tokens[-1:] == [self.target.tokenizer.eos_ids[0]]
        stopped = sequence.state == "finished" and not ended
        if tokenizer.fingerprint == self.target.tokenizer.fingerprint and not stopped:
            ids = sequence.tokens[:-1] if ended else list(sequence.tokens)
        else:
            ids = tokenizer.encode(sequence.text)
        ids = tokenizer.encode_prompt(self.prompt.messages) + ids
        if closed or ended or stopped:
            ids = ids + tokenizer.closing_ids
        return model.head(model.decoder.dense(tuple(ids))[-1:]).item()
