"""A search is a generator: driven here by hand, with made-up scores and no model."""

import pytest

from ramify.engine import Drop, Extend, Fork, Group, Prompt, Score, Sequence
from ramify.search import best_of_n, self_consistency, speculative_rejection, treebon
from ramify.types import SamplingParams

REWARD = object()  # never looked into


def a_prompt(choose=lambda count: 0, **sampling):
    return Prompt([1, 2, 3], "a question", SamplingParams(**sampling), choose, lambda ids: " ".join(map(str, ids)), 100)


def forked(prompt, sources, count):
    return Group([one.fork() for one in sources for _ in range(count)], prompt.choose)


def told(command, scores):
    """What the engine does for a Score: the reply, and a note on every candidate."""
    assert type(command) is Score and command.reward is REWARD
    for one, score in zip(command.sequences, scores, strict=True):
        one.scores.append((len(one.tokens), score))
    return scores


def grow(command, tokens, finish=()):
    """Grow the command's candidates by made-up tokens; those numbered in `finish` end."""
    assert type(command) is Extend
    for at, one in enumerate(command.sequences):
        one.tokens += [7] * tokens
        one.state = "finished" if at in finish else "live"


def ending(search, reply):
    with pytest.raises(StopIteration) as stop:
        search.send(reply)
    return stop.value.value


def test_best_of_n_reads_like_its_paper():
    prompt = a_prompt(choose=lambda count: count - 1)
    search = best_of_n(prompt, reward=REWARD, n=3)
    command = next(search)
    assert command == Fork(prompt, 3)
    alive = forked(prompt, [Sequence(prompt, None, (), 0)], 3)
    command = search.send(alive)
    assert command == Extend(alive) and command.tokens is None
    command = search.send(None)
    assert ending(search, told(command, [1.0, 5.0, 5.0])) is alive[2]  # the tie went to the last of two


def test_speculative_rejection_halves_until_one_is_left():
    prompt = a_prompt(max_tokens=16)
    search = speculative_rejection(prompt, reward=REWARD, n=4, alpha=0.5, first=2)
    assert next(search) == Fork(prompt, 4)
    everyone = forked(prompt, [Sequence(prompt, None, (), 0)], 4)
    command = search.send(everyone)
    assert list(command.sequences) == everyone and command.tokens == 2  # memory: 4 * 2 tokens
    grow(command, 2)
    command = search.send(told(search.send(None), [0.1, 0.9, 0.4, 0.2]))
    assert command == Drop([everyone[0], everyone[3]])
    for one in command.sequences:
        one.state = "dropped"
    command = search.send(None)
    assert command.sequences == [everyone[1], everyone[2]] and command.tokens == 2  # (8 - 4) // 2
    grow(command, 2, finish=[1])
    command = search.send(told(search.send(None), [0.3, 0.5]))
    assert command == Drop([everyone[1]])  # everyone[2] finished and stays
    assert ending(search, None) is everyone[2]


def test_a_finished_candidate_that_stayed_once_is_remembered():
    prompt = a_prompt(max_tokens=16)
    search = speculative_rejection(prompt, reward=REWARD, n=3, alpha=0.5, chunk=1)
    next(search)
    one, two, three = everyone = forked(prompt, [Sequence(prompt, None, (), 0)], 3)
    grow(search.send(everyone), 1, finish=[0])
    assert search.send(told(search.send(None), [0.9, 0.8, 0.1])) == Drop([three])
    three.state = "dropped"
    grow(search.send(None), 1)
    # Now the live one is ahead of the finished one, which is cut from the pool but not dropped.
    assert search.send(told(search.send(None), [0.9, 1.5])) == Drop([])
    grow(search.send(None), 1, finish=[0])
    command = search.send(None)
    assert command.sequences == [two]
    assert search.send(told(command, [0.2])) == Drop([])
    assert ending(search, None) is one  # 0.9 beats 0.2: without the memory `two` would win


def test_treebon_branches_from_the_best():
    prompt = a_prompt(max_tokens=8)
    search = treebon(prompt, reward=REWARD, n=4, layers=2, children=2)
    next(search)
    layer = forked(prompt, [Sequence(prompt, None, (), 0)], 4)
    command = search.send(layer)
    assert command.tokens == 4
    grow(command, 4, finish=[3])
    command = search.send(None)
    assert command.sequences == layer[:3]  # the finished one waits outside the tree
    command = search.send(told(command, [0.3, 0.1, 0.2]))
    assert command == Drop([layer[1]])
    command = search.send(None)
    assert command == Fork([layer[0], layer[2]], 2)
    leaves = forked(prompt, command.source, 2)
    assert [leaf.id for leaf in leaves] == ["0.0", "0.1", "2.0", "2.1"]
    assert search.send(leaves) == Drop([layer[0], layer[2]])
    command = search.send(None)
    assert command == Extend(leaves) and command.tokens is None
    grow(command, 4, finish=range(4))
    command = search.send(None)
    assert command.sequences == [layer[3], *leaves]
    assert ending(search, told(command, [0.5, 0.1, 0.2, 0.7, 0.6])) is leaves[2]


def test_self_consistency_needs_no_reward():
    prompt = a_prompt()
    search = self_consistency(prompt, n=3)
    next(search)
    alive = forked(prompt, [Sequence(prompt, None, (), 0)], 3)
    assert search.send(alive) == Extend(alive)
    for one, token in zip(alive, (4, 9, 9), strict=True):
        one.tokens.append(token)
    assert ending(search, None) is alive[1]


def test_the_split_draws_only_at_the_cut():
    asked = []
    prompt = a_prompt(choose=lambda count: asked.append(count) or count - 1)
    group = forked(prompt, [Sequence(prompt, None, (), 0)], 5)
    kept, lost = group.split_top([3.0, 1.0, 2.0, 2.0, 2.0], 3)
    assert asked == [3, 2]  # two places for three equals
    assert (kept, lost) == ([group[0], group[3], group[4]], [group[1], group[2]])  # in their old order
    asked.clear()
    assert group.split_top([3.0, 1.0, 2.0, 2.0, 2.0], 4)[1] == [group[1]]
    assert group.split_top([3.0, 1.0, 2.0, 2.0, 2.0], 0) == ([], group)
    assert asked == []  # nothing to decide, nothing drawn
