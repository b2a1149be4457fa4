"""Documents come and go in the engine's slots, and each stays, bit for bit, what it is alone."""

import pytest
import torch

from namm_runtime.engine import Engine, Request, Run
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies.base import Policy
from namm_runtime.policies.namm import Namm
from tests.support.tiny import save_tiny_llama

# Policy, tokens and longest answer: lengths on and off the boundaries of chunks and evictions.
DOCUMENTS = [
    ("namm", 1300, 40),
    ("namm", 512, 3),
    ("h2o", 2047, 25),
    ("namm", 700, 70),
    ("snapkv", 90, 10),
    ("namm", 1025, 17),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> LoadedModel:
    return load_model(save_tiny_llama(tmp_path_factory.mktemp("model")))


@pytest.fixture
def requests(tmp_path) -> list[Request]:
    found = []
    for number, (policy, tokens, longest) in enumerate(DOCUMENTS):
        generator = torch.Generator().manual_seed(number)
        letters = torch.randint(97, 123, (tokens,), generator=generator).tolist()
        path = tmp_path / f"{number}.txt"
        path.write_text("".join(map(chr, letters)))
        prompts = (f"What is {number}?", "And then?")
        found.append(
            Request(
                path, prompts, policy, 96, interval=128, max_output_tokens=longest, temperature=1.0,
                positions="cache-relative",
            )
        )  # fmt: skip
    return found


@pytest.fixture
def scored(monkeypatch) -> dict[int, list[torch.Tensor]]:
    """Every score of every policy, by the policy's id; policies are kept alive, so that ids stay theirs."""
    scores: dict[int, list[torch.Tensor]] = {}
    original = Namm.scores

    def noted(self: Namm, layer: object) -> torch.Tensor:
        found = original(self, layer)
        scores.setdefault(id(self), []).append(found.clone())
        return found

    monkeypatch.setattr(Namm, "scores", noted)
    return scores


def assert_same(one: Run, other: Run, scored: dict[int, list[torch.Tensor]]) -> None:
    assert one.answers == other.answers
    ours, theirs = one.memory.tensors(), other.memory.tensors()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    scores = [scored.get(id(run.memory.policy), []) for run in (one, other)]
    assert len(scores[0]) == len(scores[1])
    assert all(torch.equal(*pair) for pair in zip(*scores, strict=True))
    if one.memory.policy.name == "namm":
        assert scores[0]


@pytest.mark.parametrize("slots", [2, 3])
def test_documents_in_parallel_are_what_they_are_alone(tiny, requests, scored, slots):
    """Two or three slots for six documents: refilled as one ends, while others read and answer."""
    alone = [Engine(tiny).complete(request) for request in requests]
    engine, waiting = Engine(tiny, slots), list(requests)
    runs: list[Run] = []
    phases, refilled = set(), 0
    while waiting or engine.free_slots < slots:
        while waiting and engine.free_slots:
            refilled += len(runs) >= slots
            runs.append(engine.admit(waiting.pop(0)))
        phases.add(frozenset(run.phase for run in runs if run.phase != "done"))
        engine.step()
    assert {"reading", "answering"} in phases, "some should read while others answer"
    assert refilled == len(requests) - slots
    for run, expected in zip(runs, alone, strict=True):
        assert run.error is None
        assert_same(run, expected, scored)


def test_the_comparison_can_fail(tiny, requests, scored, monkeypatch):
    """A policy that depended on other documents would be detected."""
    original = Policy.evict
    seen: list[int] = []

    def swayed(self: Policy, cache: object) -> None:
        seen.append(id(self))
        if len(set(seen)) > 1:
            cache.layers[0].values.add_(1e-7)
        original(self, cache)

    alone = Engine(tiny).complete(requests[0])
    monkeypatch.setattr(Policy, "evict", swayed)
    engine = Engine(tiny, 2)
    run = engine.admit(requests[0])
    engine.admit(requests[3])
    while run.phase != "done":
        engine.step()
    with pytest.raises(AssertionError):
        assert_same(run, alone, scored)
