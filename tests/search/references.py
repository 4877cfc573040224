"""Laws by brute force over tables, in plain Python: no engine and no code of the searches.

An answer is a tuple of tokens. `row(answer)` gives the probabilities of the next token, `score(answer)` its score.
"""

from collections import defaultdict
from fractions import Fraction
from itertools import combinations, product
from math import ceil, exp, prod

from ramify.exact import distance, tabular_model, tabular_reward
from ramify.rewards import SequenceReward
from ramify.sampling.draws import mix

PROMPT, EOS = "ab", 2
PROMPT_IDS = (0, 1)


class Case:
    """A random table over {a, b, end} and a random reward with three levels, as models and as functions."""

    def __init__(self, seed, longest, zeros=0.2, levels=3):
        self.model, self.longest = tabular_model(3, seed, zeros=zeros), longest
        self.value = lambda prefix: float(mix(seed + 77, *prefix) % levels)
        self.reward = SequenceReward(tabular_reward(3, lambda prefix: self.value(prefix)))

    def row(self, answer):
        return self.model.decoder.table((*PROMPT_IDS, *answer))

    def score(self, answer):
        """The reward model reads a closed turn: every answer, partial or not, ends with the end token once."""
        return self.value((*PROMPT_IDS, *answer, *(() if answer[-1:] == (EOS,) else (EOS,))))

    def ended(self, answer):
        return len(answer) == self.longest or answer[-1:] == (EOS,)

    def grow(self, answer, count):
        """[(longer answer, probability)]: up to `count` more tokens."""
        if count == 0 or self.ended(answer):
            return [(answer, 1.0)]
        return [(end, p * q) for token, p in enumerate(self.row(answer)) if p > 0
                for end, q in self.grow((*answer, token), count - 1)]

    def policy(self):
        return dict(self.grow((), self.longest))


def check_law(law, stated):
    assert abs(sum(law.values()) - 1) < 1e-9
    assert abs(sum(stated.values()) - 1) < 1e-9
    assert distance(law, stated) < 1e-9


def together(options):
    """Independent choices: [(tuple of them, probability)]."""
    return [(tuple(pick for pick, _ in picks), prod(p for _, p in picks)) for picks in product(*options)]


def best(scores):
    """Which index wins: [(index, probability)], ties uniform."""
    top = [at for at, score in enumerate(scores) if score == max(scores)]
    return [(at, 1 / len(top)) for at in top]


def cuts(scores, count):
    """Which indices survive: [(set, probability)], ties at the cut uniform."""
    order = sorted(scores, reverse=True)
    sure = [at for at, score in enumerate(scores) if count == 0 or score > order[count - 1]][:count]
    tied = [at for at, score in enumerate(scores) if count and score == order[count - 1]]
    ways = list(combinations(tied, count - len(sure)))
    return [({*sure, *way}, 1 / len(ways)) for way in ways]


def best_of_n(case, n):
    law = defaultdict(float)
    for answers, p in together([list(case.policy().items())] * n):
        for at, q in best([case.score(answer) for answer in answers]):
            law[answers[at]] += p * q
    return law


def vote(case, n, key, beta=None):
    """The law of the returned answer: the first of those that give the winning key."""
    law = defaultdict(float)
    for answers, p in together([list(case.policy().items())] * n):
        tally = defaultdict(float)
        for answer in answers:
            if key(answer) is not None:
                tally[key(answer)] += 1.0 if beta is None else exp(case.score(answer) / beta)
        names = list(tally)
        for at, q in best([round(tally[name], 9) for name in names]) if names else [(None, 1.0)]:
            law[next(a for a in answers if at is None or key(a) == names[at])] += p * q
    return law


def speculative_rejection(case, n, alpha, chunk=None, memory=None):
    """`alpha` is a Fraction. Fixed rounds of `chunk` tokens, or rounds that end when `memory` tokens are alive."""
    law = defaultdict(float)

    def walk(answers, alive, kept, mass):
        growing = [at for at in alive if not case.ended(answers[at])]
        if not growing:
            for at, q in best([case.score(answers[at]) for at in kept]):
                law[answers[kept[at]]] += mass * q
            return
        step = chunk or max(1, (memory - sum(len(answers[at]) for at in alive)) // len(growing))
        ways = [case.grow(answers[at], step) if at in growing else [(answers[at], 1.0)] for at in range(n)]
        for ends, p in together(ways):
            for stay, q in cuts([case.score(ends[at]) for at in alive], ceil((1 - Fraction(alpha)) * len(alive))):
                left = [at for turn, at in enumerate(alive) if turn in stay]
                found = [at for at in left if case.ended(ends[at]) and at not in kept]
                walk(ends, left, [*kept, *found], mass * p * q)

    walk(((),) * n, list(range(n)), [], 1.0)
    return law


def treebon(case, n, layers, children, segment, guide=None):
    law, guide = defaultdict(float), guide or case.score

    def walk(alive, ended, layer, mass):
        count = case.longest if layer == layers else segment
        for ends, p in together([case.grow(answer, count) for answer in alive]):
            if layer == layers:
                final = [*ended, *ends]
                for at, q in best([case.score(answer) for answer in final]):
                    law[final[at]] += mass * p * q
                continue
            done = [answer for answer in ends if case.ended(answer)]
            growing = [answer for answer in ends if not case.ended(answer)]
            survivors = min(len(growing), max(1, n // children))
            for stay, q in cuts([guide(answer) for answer in growing], survivors):
                heirs = [answer for at, answer in enumerate(growing) if at in stay for _ in range(children)]
                walk(heirs, [*ended, *done], layer + 1, mass * p * q)

    walk([()] * n, [], 1, 1.0)
    return law
