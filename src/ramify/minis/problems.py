"""Seeded generator of grade-school word problems whose answers a program can check.

A problem is a short story about one quantity. Every sentence that changes the quantity adds one line of
arithmetic to the solution, so a solution is checkable line by line, and the answer follows `####`.
Which split a problem belongs to is decided by a hash of its question: no question can be in two splits.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "validation", "evaluation"]

LIMIT = 200  # no quantity in a story is larger: a small model has to learn the arithmetic too
ANSWER_MARK = "####"


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its worked solution, and the integer after the solution's final `####`."""

    question: str
    solution: str
    answer: int
    steps: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A world of nouns and the sentences that raise or lower their number.

    Slots in sentences: {who} the subject, {a} {b} numbers, {unit} the noun, {friend} another name.
    """

    units: tuple[str, ...]
    starts: tuple[str, ...]
    products: tuple[str, ...]  # starting sentences worth a * b
    gains: tuple[str, ...]
    product_gains: tuple[str, ...]  # gains worth a * b
    losses: tuple[str, ...]
    endings: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SCENES = (
    Scene(
        units=_words("apples pears plums cookies muffins peaches eggs lemons nuts candies"),
        starts=(
            "{who} has {a} {unit}.",
            "{who} picks {a} {unit}.",
            "There are {a} {unit} in the kitchen of {who}.",
        ),
        products=(
            "{who} has {a} bags with {b} {unit} each.",
            "{who} fills {a} baskets with {b} {unit} each.",
            "{who} buys {a} boxes of {b} {unit}.",
        ),
        gains=(
            "{who} buys {a} more {unit}.",
            "{friend} brings {a} {unit} to {who}.",
            "{who} gets {a} more {unit}.",
        ),
        product_gains=(
            "{who} buys {a} more bags with {b} {unit} each.",
            "{a} friends each bring {b} {unit} to {who}.",
        ),
        losses=("{who} eats {a} {unit}.", "{who} gives {a} {unit} to {friend}.", "{a} {unit} go bad."),
        endings=("How many {unit} does {who} have now?", "How many {unit} are left for {who}?"),
    ),
    Scene(
        units=_words("marbles stickers cards shells coins stamps books pencils beads toys"),
        starts=("{who} has {a} {unit}.", "{who} owns {a} {unit}.", "{who} starts with {a} {unit}."),
        products=(
            "{who} has {a} boxes with {b} {unit} each.",
            "{who} keeps {b} {unit} on each of {a} shelves.",
            "{who} collects {b} {unit} a week for {a} weeks.",
        ),
        gains=("{who} finds {a} more {unit}.", "{friend} gives {who} {a} {unit}.", "{who} wins {a} {unit}."),
        product_gains=("{who} buys {a} packs of {b} {unit}.", "{a} friends each give {who} {b} {unit}."),
        losses=(
            "{who} loses {a} {unit}.",
            "{who} gives {friend} {a} {unit}.",
            "{who} sells {a} of the {unit}.",
        ),
        endings=("How many {unit} does {who} have now?", "How many {unit} does {who} own in the end?"),
    ),
    Scene(
        units=_words("dollars"),
        starts=(
            "{who} has {a} dollars.",
            "{who} saved {a} dollars.",
            "{who} gets {a} dollars from {friend}.",
        ),
        products=(
            "{who} earns {a} dollars an hour and works {b} hours.",
            "{who} saves {b} dollars a week for {a} weeks.",
            "{who} sells {a} cakes for {b} dollars each.",
        ),
        gains=(
            "{who} earns {a} dollars more.",
            "{friend} gives {who} {a} dollars.",
            "{who} finds {a} dollars.",
        ),
        product_gains=(
            "{who} mows {a} lawns for {b} dollars each.",
            "{who} sells {a} toys for {b} dollars each.",
        ),
        losses=(
            "{who} spends {a} dollars.",
            "{who} pays {a} dollars for a hat.",
            "{who} lends {friend} {a} dollars.",
        ),
        endings=("How many dollars does {who} have now?", "How much money in dollars is left for {who}?"),
    ),
    Scene(
        units=_words("pages miles laps tasks"),
        starts=("{who} plans {a} {unit}.", "The list of {who} has {a} {unit}."),
        products=(
            "{who} plans {a} {unit} a day for {b} days.",
            "{who} has to do {b} {unit} on each of {a} days.",
        ),
        gains=("{who} adds {a} {unit}.", "{friend} asks {who} for {a} more {unit}."),
        product_gains=("{who} adds {a} {unit} a day for {b} days.",),
        losses=(
            "{who} finishes {a} {unit} on Monday.",
            "{friend} does {a} {unit} for {who}.",
            "{who} skips {a} {unit}.",
        ),
        endings=("How many {unit} are left for {who}?", "How many {unit} must {who} still do?"),
    ),
)

SHE = _words("Anna Mia Lucy Emma Nora Zoe Lily Ruth Sara Ella Kate Amy Rosa June")
HE = _words("Tom Ben Sam Leo Max Jack Paul Omar Hugo Adam Luke Noah Ivan Carl")


@dataclass(slots=True)
class Story:
    """A story being told: `value` is the quantity of `who` after the sentences so far."""

    rng: random.Random
    scene: Scene
    unit: str
    who: str
    friend: str
    rival: str
    value: int = 0
    compared: tuple[str, int] | None = None  # the first person and their quantity, once the rival took over
    sentences: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def say(self, template: str, a: int = 0, b: int = 0) -> None:
        who = self.who
        may_vary = self.sentences and self.compared is None and self.rng.random() < 0.4
        if may_vary and (template.startswith("{who}") or "does {who}" in template):
            who = "she" if who in SHE else "he"
        text = template.format(who=who, friend=self.friend, unit=self.unit, a=a, b=b)
        self.sentences.append(text[0].upper() + text[1:])

    def compute(self, a: int, sign: str, b: int, unit: str | None = None) -> int:
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        self.lines.append(f"{a}{sign}{b}={result} {unit or self.unit}")
        return result


def _amount(rng: random.Random, most: int) -> int:
    """A number from 2 to `most`, small ones more often."""
    return rng.randint(2, rng.randint(2, max(2, most)))


def _gain(s: Story) -> bool:
    a = _amount(s.rng, 40)
    if s.value + a > LIMIT:
        return False
    s.say(s.rng.choice(s.scene.gains), a)
    s.value = s.compute(s.value, "+", a)
    return True


def _lose(s: Story) -> bool:
    if s.value < 5:
        return False
    a = _amount(s.rng, min(40, s.value - 2))
    s.say(s.rng.choice(s.scene.losses), a)
    s.value = s.compute(s.value, "-", a)
    return True


def _gain_product(s: Story) -> bool:
    a, b = s.rng.randint(2, 6), s.rng.randint(2, 10)
    if s.value + a * b > LIMIT:
        return False
    s.say(s.rng.choice(s.scene.product_gains), a, b)
    s.value = s.compute(s.value, "+", s.compute(a, "*", b))
    return True


def _halve(s: Story) -> bool:
    if s.value % 2 or s.value < 4:
        return False
    s.say(s.rng.choice(("Half of the {unit} go to {friend}.", "Then half of the {unit} are gone.")))
    s.value = s.compute(s.value, "/", 2)
    return True


def _compare_times(s: Story) -> bool:
    a = s.rng.randint(2, 4)
    if s.compared is not None or s.value * a > LIMIT:
        return False
    word = {2: "twice", 3: "3 times", 4: "4 times"}[a]
    s.sentences.append(f"{s.rival} has {word} as many {s.unit} as {s.who}.")
    s.compared, s.who = (s.who, s.value), s.rival
    s.value = s.compute(s.value, "*", a)
    return True


def _compare_difference(s: Story) -> bool:
    a, more = _amount(s.rng, 20), s.rng.random() < 0.5
    if s.compared is not None or not 2 <= s.value + (a if more else -a) <= LIMIT:
        return False
    s.sentences.append(f"{s.rival} has {a} {'more' if more else 'fewer'} {s.unit} than {s.who}.")
    s.compared, s.who = (s.who, s.value), s.rival
    s.value = s.compute(s.value, "+" if more else "-", a)
    return True


def _end_plain(s: Story) -> bool:
    s.say(s.rng.choice(s.scene.endings))
    return True


def _end_together(s: Story) -> bool:
    if s.compared is None or s.value + s.compared[1] > LIMIT:
        return False
    s.sentences.append(f"How many {s.unit} do {s.compared[0]} and {s.who} have together?")
    s.value = s.compute(s.compared[1], "+", s.value)
    return True


def _end_share(s: Story) -> bool:
    ways = [k for k in range(2, 11) if s.value % k == 0 and 2 <= s.value // k <= 30]
    if not ways:
        return False
    a = s.rng.choice(ways)
    s.say(s.rng.choice((
        "{who} shares all {unit} equally among {a} children. How many {unit} does each child get?",
        "{who} splits the {unit} into {a} equal parts. How many {unit} are in each part?",
    )), a)  # fmt: skip
    s.value = s.compute(s.value, "/", a)
    return True


def _end_sell(s: Story) -> bool:
    a = s.rng.randint(2, 9)
    if s.unit == "dollars" or s.value > 40 or s.value * a > LIMIT:
        return False
    s.say("{who} gets {a} dollars for each of the {unit}. How many dollars does {who} get?", a)
    s.value = s.compute(s.value, "*", a, "dollars")
    return True


Move = Callable[[Story], bool]  # adds a sentence and its arithmetic; False (and no change) if it does not fit
MIDDLES: tuple[Move, ...] = (
    _gain,
    _lose,
    _gain_product,
    _halve,
    _compare_times,
    _compare_difference,
    _gain,
    _lose,
)
ENDINGS: tuple[Move, ...] = (_end_plain, _end_plain, _end_together, _end_share, _end_sell)


def _tell(rng: random.Random, steps: int) -> Problem | None:
    """A problem with exactly `steps` lines of arithmetic, or None if the draws did not lead to one."""
    scene = rng.choice(SCENES)
    who, friend, rival = rng.sample(SHE + HE, 3)
    s = Story(rng, scene, rng.choice(scene.units), who, friend, rival)
    if rng.random() < 0.4:
        a, b = rng.randint(2, 9), rng.randint(2, 12)
        s.say(rng.choice(scene.products), a, b)
        s.value = s.compute(a, "*", b)
    else:
        s.value = _amount(rng, 60)
        s.say(rng.choice(scene.starts), s.value)
    ending = rng.choice(ENDINGS)
    before_ending = steps - (ending is not _end_plain)
    for _ in range(20):
        if len(s.lines) >= before_ending:
            break
        rng.choice(MIDDLES)(s)
    if len(s.lines) != before_ending or not ending(s):
        return None
    solution = "\n".join([*s.lines, f"{ANSWER_MARK} {s.value}"])
    return Problem(" ".join(s.sentences), solution, s.value, steps)


def split_of(question: str) -> Split:
    """The only split this question may appear in: 90 % train, 5 % validation, 5 % evaluation."""
    bucket = hashlib.blake2b(question.encode(), digest_size=4).digest()[0] % 20
    return "evaluation" if bucket == 0 else "validation" if bucket == 1 else "train"


def problem_stream(split: Split, seed: int, steps: tuple[int, int] = (2, 5)) -> Iterator[Problem]:
    """Endless problems of one split with `steps[0]` to `steps[1]` lines of arithmetic; repeats are possible."""
    rng = random.Random(f"{split}/{seed}/{steps}")
    while True:
        problem = _tell(rng, rng.randint(*steps))
        if problem is not None and split_of(problem.question) == split:
            yield problem


def problems(split: Split, n: int, seed: int = 0) -> list[Problem]:
    """`n` different problems of 2 to 5 steps from `split`; the same arguments always give the same list."""
    found: dict[str, Problem] = {}
    for problem in problem_stream(split, seed):
        if len(found) >= n:
            break
        found.setdefault(problem.question, problem)
    return list(found.values())


def answer_of(text: str) -> int | None:
    """The integer after the last `####`, or None if the text does not end in one."""
    match = re.fullmatch(r"\s*(-?\d{1,9})\s*", text.rpartition(ANSWER_MARK)[2]) if ANSWER_MARK in text else None
    return int(match.group(1)) if match else None


def is_correct(problem: Problem, text: str) -> bool:
    """Whether the text ends in `#### n` with the problem's answer; the steps before it are not judged."""
    return answer_of(text) == problem.answer
