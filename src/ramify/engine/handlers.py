"""What each command means, in terms of jobs.

A handler is a generator: it yields lists of jobs and is resumed when they are done, or yields another
command and receives its reply; it returns the reply to its own command.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from ramify.engine import commands
from ramify.engine.jobs import Job
from ramify.engine.reading import agree, answer_ids, draft_prompt_ids, prompt_ids
from ramify.engine.sequence import Context, Group, Prompt, Sequence, check_scores
from ramify.errors import CapacityError, ModelError, PromptError
from ramify.sampling.draws import mix

if TYPE_CHECKING:
    from ramify.engine.loop import Loop
    from ramify.engine.request import Request
    from ramify.engine.runner import Runner

Handler = Generator[Any, Any, Any]


def fork(loop: Loop, request: Request, command: commands.Fork) -> Handler:
    """Children that share every cached block of their source."""
    source, target = command.source, loop.target
    if isinstance(source, Prompt):
        yield from _root(request, target, "logits")
        sources: Iterable[Sequence] = [request.root]
    else:
        sources = [source] if isinstance(source, Sequence) else source
    children = []
    for parent in sources:
        for _ in range(command.count):
            child = parent.fork()
            for runner, context in list(child.contexts.items()):
                if parent is request.root and runner is not target:
                    del child.contexts[runner]  # forked from the root when first needed
                    context.release()
                else:
                    request.usage.role(runner.role).cached += len(context.ids)
            children.append(child)
        request.emit("fork", parent, children=[child.id for child in parent.children[-command.count :]])
    request.sequences += children
    return Group(children, request.prompt.choose)


def extend(loop: Loop, request: Request, command: commands.Extend) -> Handler:
    """Grow what still lives."""
    limit = request.prompt.params.max_tokens
    live = [sequence for sequence in command.sequences if sequence.live]
    if live and request.speculation and (model := request.speculation.drafter.model):
        _open_draft(loop, request, loop.runner(model, "draft"))
    tokens = limit if command.tokens is None else command.tokens
    for sequence in live:
        request.context(sequence, loop.target)
    yield [Job(request, sequence, loop.target, request.prompt.ids, sequence.tokens, "grow",
               min(tokens, limit - len(sequence.tokens))) for sequence in live]
    for sequence in live:
        request.emit("extend", sequence)


def score(loop: Loop, request: Request, command: commands.Score) -> Handler:
    """Let the reward judge; keep what it says on each candidate."""
    values = yield from command.reward.score(command.sequences)
    check_scores(values, len(command.sequences), command.reward.name)
    for sequence, value in zip(command.sequences, values, strict=True):
        sequence.scores.append((len(sequence.tokens), value))
        request.emit("score", sequence, score=value, reward=command.reward.name)
    return values


def drop(loop: Loop, request: Request, command: commands.Drop) -> Handler:
    """Free the blocks at once."""
    for sequence in command.sequences:
        sequence.state, sequence.dropped_at = "dropped", len(sequence.tokens)
        sequence.release()
        request.emit("drop", sequence)
    return
    yield


def rewind(loop: Loop, request: Request, command: commands.Rewind) -> Handler:
    """Cut answers back; later draws of the same positions are fresh."""
    for sequence in command.sequences:
        if command.length < len(sequence.tokens):
            sequence.cut(command.length)
            sequence.stream = mix(sequence.stream, -1)
            for runner in sequence.contexts:
                context = sequence.own(runner)
                # One id short, because the last one must be read again to know what follows it.
                context.rewind(max(0, (kept := len(request.prefixes[runner]) + command.length) - 1))
                context.lost = context.lost[:kept]
        request.emit("rewind", sequence)
    return
    yield


def peek(loop: Loop, request: Request, command: commands.Peek) -> Handler:
    """Read each answer but its last token under another model and collect log-probabilities."""
    if command.model is None or not command.sequences:
        return [list(sequence.logprobs) for sequence in command.sequences]
    if command.model.tokenizer.fingerprint != loop.target.model.tokenizer.fingerprint:
        raise ModelError(f"a model with the tokenizer of {loop.target.model.name}", command.model.name,
                         "use one of the same family: the answer's tokens mean something else to this one")
    runner = loop.runner(command.model, command.role)
    root = yield from _root(request, runner, "logits")
    prefix, jobs = request.prefixes[runner], []
    for sequence in command.sequences:
        context, known = request.context(sequence, runner), sequence.known.setdefault(runner, [])
        if sequence.tokens and not known and root.logits is not None:
            known.append(root.logits.log_softmax(-1)[sequence.tokens[0]].item())
        # `read` may have left closing tokens here, or read further than log-probabilities are known.
        length = min(agree(context.ids, prefix + sequence.tokens), len(prefix) + max(0, len(known) - 1))
        if length < len(context.ids):
            sequence.own(runner).rewind(length)
        jobs.append(Job(request, sequence, runner, prefix, sequence.tokens[:-1], "logprobs"))
    yield jobs
    return [job.result for job in jobs]


def read(loop: Loop, request: Request, command: commands.Read) -> Handler:
    """Feed each answer's new tokens to a model with a scalar head."""
    if not command.sequences:
        return []
    runner = loop.runner(command.model, command.role)
    yield from _root(request, runner, "none")
    prefix, jobs = request.prefixes[runner], []
    for sequence in command.sequences:
        context = request.context(sequence, runner)
        suffix = answer_ids(command.model, loop.target.model, sequence, command.closed)
        shared = agree(context.ids, prefix + suffix)
        length = min(shared, len(prefix) + len(suffix) - 1)
        if length < len(context.ids) and (shared < len(context.ids) or context.value is None):
            context = sequence.own(runner)
            context.rewind(length)
        _fit(runner, len(prefix) + len(suffix))
        jobs.append(Job(request, sequence, runner, prefix, suffix, "value"))
    yield jobs
    return [job.result for job in jobs]


def _root(request: Request, runner: Runner, want: Any) -> Generator[list[Job], Any, Context]:
    """The prompt in `runner`'s cache, read once per request."""
    if runner not in request.prefixes:
        request.prefixes[runner] = prompt_ids(runner.model, request)
        _fit(runner, len(request.prefixes[runner]))
    prefix = request.prefixes[runner]
    root = request.root.contexts.get(runner)
    if root is None:
        root = request.root.contexts[runner] = runner.open(prefix)
        # Every candidate will inherit the prompt; the one that is computed now is not saved.
        request.usage.role(runner.role).cached -= len(prefix) - len(root.ids)
    if len(root.ids) < len(prefix) or (want == "logits" and root.logits is None):
        root = request.root.own(runner)
        root.rewind(len(prefix) - 1)
        yield [Job(request, request.root, runner, prefix, [], want)]
        runner.remember(root)
    return root


def _open_draft(loop: Loop, request: Request, runner: Runner) -> None:
    """A context for the prompt's ids, which the draft reads once drafting pays; where they do not fit, the request goes
    on without a draft."""
    if runner in request.root.contexts:
        return
    try:
        ids = draft_prompt_ids(runner.model, loop.target.model, request.prompt)
        _fit(runner, len(ids))
    except (CapacityError, PromptError) as error:
        request.speculation_failed(f"went on without a draft: {error}")
    else:
        request.prefixes[runner] = ids
        request.root.contexts[runner] = runner.open(ids)


def _fit(runner: Runner, count: int) -> None:
    """Raise `CapacityError` if `count` ids of one text cannot be read at all."""
    room = min(runner.capacity, runner.model.decoder.config.max_positions)
    if count > room:
        raise CapacityError(f"room for {count} tokens in {runner.model.name}", f"{room}",
                            "raise capacity, lower max_tokens, or use a model with a longer context")


HANDLERS: dict[type, Callable[..., Handler]] = {
    commands.Fork: fork, commands.Extend: extend, commands.Score: score, commands.Drop: drop,
    commands.Rewind: rewind, commands.Peek: peek, commands.Read: read,
}
