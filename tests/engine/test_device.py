"""The engine as it runs on a GPU, in Triton's interpreter: the same texts as by plain torch.

Recording is what a CPU cannot do. Here a recording runs the same forward again from the same buffers, so that all but
the capture itself is tested: which steps are recorded, how they are filled up, and what is read back.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from pretend import Far, PretendedGPU, carried, on_gpu
from tiny import assert_empty, finish, tiny_engine, tiny_model

from ramify.engine import Drop, Engine, Extend, Fork, Peek, Rewind, device
from ramify.engine.device import DeviceReader
from ramify.models.kernels.cuda import attention, plan
from ramify.rewards import SequenceReward
from ramify.search import best_of_n, sample
from ramify.speculative import Draft, speculate
from ramify.types import SamplingParams, SpeculationParams

FAMILY = TARGET, DRAFT, JUDGE = tuple(tiny_model(seed, dtype=torch.float32) for seed in (0, 7, 1))
PARAMS = SamplingParams(max_tokens=6, ignore_eos=True)
GREEDY = SamplingParams(max_tokens=6, temperature=0)


class Again:
    """Recordings that run the forward again."""

    def __init__(self):
        self.made = self.replayed = 0

    def __call__(self, run):
        self.made, hidden_TD = self.made + 1, run()

        def replay():
            self.replayed += 1
            hidden_TD.copy_(run())

        return replay, hidden_TD


def wander(prompt, judge):
    """Forks, rewinds and drops."""
    [first] = yield Fork(prompt, 1)
    yield Extend([first], tokens=2)
    children = yield Fork(first, 3)
    yield Extend(children, tokens=3)
    yield Rewind([children[0]], 3)
    yield Drop([children[1]])
    yield Extend([children[0], children[2]])
    return children[0]


def texts(search, params=PARAMS, prompts=("abcab",), record=None, speculation=None, models=FAMILY, **engine):
    """What all candidates say; by Triton if there is something to record with."""
    target, draft, judge = models
    engine = tiny_engine(target, **engine)
    runners = [engine.loop.target, engine.loop.runner(judge, "reward"), engine.loop.runner(draft, "draft")]
    for runner in runners if record else ():
        runner.read = DeviceReader(runner.model.decoder, runner.store, record)
    sent = [engine.submit(prompt, partial(search, judge=judge), params, seed=at,
                          speculation=speculation and speculation(draft)) for at, prompt in enumerate(prompts)]
    finish(engine, sent)
    assert_empty(engine)
    return [(each.id, each.token_ids, each.text, pytest.approx(each.reward, abs=1e-4))
            for request in sent for each in request.outcome.candidates]


def judged(prompt, judge):
    """Best-of-N, and a look at log-probabilities."""
    best = yield from best_of_n(prompt, reward=SequenceReward(judge), n=3)
    yield Peek([best], None, "target")
    return best


def drafts(**options):
    return lambda draft: speculate(SpeculationParams(verifier="coupled", **options), Draft(draft))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Items of few keys, and recordings after a first look."""
    monkeypatch.setattr(plan, "REACH", 8)
    monkeypatch.setattr(device, "AGAIN", 1)


@pytest.mark.parametrize("search, params, options", [
    (wander, PARAMS, {}), (wander, GREEDY, {"block_size": 16}), (judged, PARAMS, {}),
    (wander, PARAMS, {"capacity": 24, "prompts": ["ab", "cd"]}), (wander, PARAMS, {"kv_dtype": torch.int8})],
    ids=["sampled", "greedy", "judged", "preempted", "bytes"])
def test_texts_are_those_of_plain_torch(search, params, options):
    record = Again()
    assert texts(search, params, record=record, **options) == texts(search, params, **options)
    assert record.replayed


@pytest.mark.parametrize("options, kept", [({"draft_length": 3}, None), ({"tree": "2x2"}, None),
                                           ({"tree": "2x2"}, torch.int8)], ids=str)
def test_drafts_are_read_as_by_plain_torch(options, kept):
    found = texts(wander, record=Again(), speculation=drafts(**options), kv_dtype=kept)
    assert found == texts(wander, kv_dtype=kept)


def test_replays_that_read_nothing_new_are_caught():
    def stale(run):
        return lambda: None, run()

    alone = partial(sample, n=2)
    assert texts(lambda prompt, judge: alone(prompt), record=stale) != texts(lambda prompt, judge: alone(prompt))


def test_what_is_kept_of_a_replay_is_not_written_over():
    """Two replays one after another; the first result is read last."""
    engine = tiny_engine(TARGET)
    runner = engine.loop.target
    runner.read = DeviceReader(TARGET.decoder, runner.store, Again())
    root = runner.open([1, 2, 3, 4])
    runner.forward([(root, [1, 2, 3, 4], None)])
    found = [[runner.forward([(context, [at], None) for at, context in enumerate(root.fork() for _ in range(3))])
              for _ in range(2)] for _ in range(2)]
    for first, second in found:
        torch.testing.assert_close(first, second)


@pytest.fixture
def gpu(monkeypatch):
    """A pretended GPU, and the models on it."""
    for name in ("attend", "write"):
        monkeypatch.setattr(attention, name, on_gpu(getattr(attention, name)))
    monkeypatch.setattr(device, "recorder", lambda device: Again())
    monkeypatch.setattr("ramify.engine.runner.free_bytes", lambda device: 1 << 30)
    models = [tiny_model(seed, dtype=torch.float32) for seed in (0, 7, 1)]
    for model in models:
        carried(model.decoder.decoder)
        carried(model.head)
        model.device = "cuda"
    with PretendedGPU() as pretended:
        yield pretended, models


@pytest.mark.parametrize("kept", [None, torch.int8], ids=str)
def test_nothing_of_the_host_meets_the_gpu(gpu, kept):
    pretended, models = gpu
    params = replace(PARAMS, max_tokens=3)
    assert texts(judged, params, models=models, kv_dtype=kept) == texts(judged, params, kv_dtype=kept)
    assert pretended.sent


def test_the_second_gpu_is_asked_for_by_its_number(gpu, monkeypatch):
    pretended, models = gpu
    monkeypatch.setattr(Far, "device", torch.device("cuda:1"))
    for model in models:
        model.device = "cuda:1"
    texts(judged, replace(PARAMS, max_tokens=2), models=models)
    assert pretended.asked == {"cuda:1"}
    models[0].device = "cuda"  # whichever is the current one: load_model writes no such thing
    tiny_engine(models[0])
    assert pretended.asked == {"cuda:1", "cuda"}


SAMPLING = [{"repetition_penalty": 1.5, "presence_penalty": 0.5}, {"frequency_penalty": 0.5, "logit_bias": {0: 1.0}},
            {"top_k": 3, "temperature": 0.5}, {"top_p": 0.7, "min_p": 0.1}]
DRAFTS = [{"verifier": verifier, "draft_length": 3} for verifier in ("token", "block", "greedy")] + [
    {"verifier": verifier, "tree": "iid:2x1"} for verifier in ("recursive", "k_sequential", "traversal")] + [
    {"tree": "beam:2x2"}, {"draft_stop": "confidence:0.3"}, {}]


@pytest.mark.parametrize("options", SAMPLING + DRAFTS, ids=str)
def test_nor_does_it_where_there_are_no_kernels(gpu, monkeypatch, options):
    """Plain torch, with every option of sampling and every verifier."""
    monkeypatch.setattr("ramify.engine.runner.served", lambda store, dtype: False)
    sampling = options in SAMPLING
    params = replace(PARAMS, **options if sampling else {"temperature": 0} if "greedy" in options.values() else {})
    speculation = None if sampling else lambda draft: speculate(SpeculationParams(**options), Draft(draft))
    assert texts(judged, params, models=gpu[1], speculation=speculation)


@pytest.mark.parametrize("kept", [None, torch.float64, torch.int8, torch.bfloat16], ids=str)
def test_which_caches_the_kernels_read(gpu, kept):
    engine = Engine(gpu[1][0], capacity=256, block_size=4, kv_dtype=kept)
    assert engine.loop.target.store.kv.is_cuda
    assert isinstance(engine.loop.target.read, DeviceReader) == (kept != torch.float64)


def test_double_precision_is_left_to_torch(gpu):
    target = tiny_model(0)
    target.device = "cuda"
    assert not isinstance(Engine(target, capacity=64, kv_dtype=torch.int8).loop.target.read, DeviceReader)


def test_a_step_that_stays_behind_is_caught(gpu, monkeypatch):
    monkeypatch.setattr(device, "sent", lambda packed, device: torch.from_numpy(packed))
    with pytest.raises((AssertionError, RuntimeError)):
        texts(wander, models=gpu[1])
