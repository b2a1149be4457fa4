"""Requests in, answers out, with the bundled model: alone, in parallel, interrupted, and refused."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from namm_runtime.engine import Engine, Refusal, Request
from namm_runtime.engine.memory import Memory
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.tasks import Document, make_document


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    """With an eighth of its window, so that a document of seconds lies beyond it."""
    return replace(load_model("bundled"), window=2048)


@pytest.fixture(scope="module")
def document() -> Document:
    """About 8,000 tokens, four times the window above."""
    return make_document(24_000, 8, seed=3, split="test", filler="business")


@pytest.fixture
def file(tmp_path, document):
    path = tmp_path / "document.txt"
    path.write_text(document.text)
    return path


def request(file, document, **kwargs) -> Request:
    questions = tuple(planted.fact.question for planted in document.facts)
    return Request(file, questions, **({"policy": "keydiff", "max_output_tokens": 12} | kwargs))


def texts(run) -> list[str]:
    return [answer.text for answer in run.answers]


def test_it_answers_from_beyond_its_window(bundled, file, document):
    run = Engine(bundled).complete(request(file, document))
    right = [planted.fact.answer in text for planted, text in zip(document.facts, texts(run), strict=True)]
    assert sum(right) >= 7
    usage = run.usage
    assert usage.positions == "cache-relative"
    assert run.tokens_read == run.tokens_total == usage.tokens_document > bundled.window
    assert 0 < usage.kept_fraction < 0.25
    assert usage.kept_bytes <= usage.resident_bytes < usage.peak_bytes
    assert usage.dense_bytes == (run.tokens_total + 1) * bundled.dense_bytes_per_token
    assert 0 < usage.kv_byte_seconds < usage.dense_byte_seconds * 2


def test_short_documents_keep_their_places(bundled, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("\nInvoice 4821 total: 9310.\nInvoice 4821 balance: 417.\n")
    run = Engine(bundled).complete(
        Request(path, ("Invoice 4821 total:",), policy="full", max_output_tokens=8)
    )
    assert run.usage.positions == "absolute"
    assert run.usage.kept_fraction >= 1
    assert "9310" in run.answers[0].text


@pytest.mark.parametrize("policy", ["keydiff", "namm"])
def test_parallel_documents_change_nothing(bundled, file, document, tmp_path, policy):
    """Not one bit of the cache, and no answer, whoever comes and goes in the other slots."""
    other = tmp_path / "other.txt"
    other.write_text(make_document(9_000, 3, seed=9, split="test").text)
    alone = Engine(bundled).complete(request(file, document, policy=policy))
    engine = Engine(bundled, slots=3)
    run = engine.admit(request(file, document, policy=policy))
    engine.admit(Request(other, ("Invoice 1 total:",), policy="h2o"))
    late = None
    while run.phase != "done":
        engine.step()
        if late is None and run.tokens_read > 2000:
            late = engine.admit(Request(other, ("Order 2 owner:",), policy="streaming", budget=64))
    assert texts(run) == texts(alone)
    assert late is not None
    assert late.phase == "done"
    for ours, theirs in zip(run.memory.cache.layers, alone.memory.cache.layers, strict=True):
        assert torch.equal(ours.positions, theirs.positions)
        assert torch.equal(ours.keys, theirs.keys)
        for name in ours.state:
            assert torch.equal(ours.state[name], theirs.state[name])


@pytest.mark.parametrize("moment", ["reading", "answering"])
def test_resuming_equals_reading_straight(bundled, file, document, tmp_path, moment):
    straight = Engine(bundled).complete(request(file, document))
    first = Engine(bundled)
    run = first.admit(request(file, document))
    while not (run.phase == moment and (run.tokens_read > 3000 or moment == "answering")):
        first.step()
    if moment == "answering":
        while len(run.answers) < 2:
            first.step()
    run.snapshot(tmp_path / "snapshot")
    first.release(run)
    resumed = Engine(bundled).complete(request(file, document), tmp_path / "snapshot")
    assert texts(resumed) == texts(straight)
    assert resumed.tokens_read == straight.tokens_read
    assert resumed.usage.tokens_generated == straight.usage.tokens_generated


def test_sampling_is_seeded(bundled, file, document):
    def sample(seed: int) -> list[str]:
        return texts(Engine(bundled).complete(request(file, document, temperature=2.0, seed=seed)))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_slots_are_counted(bundled, file, document):
    engine = Engine(bundled, slots=1)
    run = engine.admit(request(file, document))
    assert engine.free_slots == 0
    with pytest.raises(RuntimeError, match="no free slot"):
        engine.admit(request(file, document))
    engine.release(run)
    assert engine.free_slots == 1


REFUSED = {
    "unknown_policy": {"policy": "lru"},
    "budget_out_of_range": {"budget": 2000},
    "document_too_long": {"max_document_tokens": 100},
    "bad_request": {"positions": "sideways"},
    "bad_interval": {"interval": 100, "prompts": ("x",)},
    "prompt_too_long": {"prompts": ("word " * 600,)},
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_cannot_be_served_is_refused(bundled, file, document, code):
    kwargs = {"document": file, "prompts": ("Invoice 1 total:",), "policy": "keydiff"} | REFUSED[code]
    with pytest.raises(Refusal) as refusal:
        Engine(bundled).complete(Request(**kwargs))
    assert refusal.value.code == code


def test_a_full_cache_cannot_exceed_the_window(bundled, file, document):
    with pytest.raises(Refusal) as refusal:
        Engine(bundled).complete(request(file, document, policy="full"))
    assert refusal.value.code == "document_too_long"


def test_empty_documents_are_refused(bundled, tmp_path):
    (tmp_path / "empty").write_text("")
    with pytest.raises(Refusal) as refusal:
        Engine(bundled).complete(Request(tmp_path / "empty", ("x",), policy="keydiff"))
    assert refusal.value.code == "document_empty"


def test_a_refused_run_leaves_the_others_alone(bundled, file, document, tmp_path):
    (tmp_path / "empty").write_text("")
    engine = Engine(bundled, slots=2)
    bad = engine.admit(Request(tmp_path / "empty", ("x",), policy="keydiff"))
    good = engine.admit(request(file, document))
    finished = []
    while not finished:
        finished = engine.step()
    assert finished == [bad]
    assert isinstance(bad.error, Refusal)
    assert bad.error.code == "document_empty"
    while good.phase != "done":
        engine.step()
    assert good.answers


def test_a_defect_in_one_run_leaves_the_others_alone(bundled, file, document, monkeypatch):
    engine = Engine(bundled, slots=2)
    bad, good = engine.admit(request(file, document)), engine.admit(request(file, document))
    while bad.memory is None:
        engine.step()
    monkeypatch.setattr(bad.memory, "feed", lambda ids: 1 / 0)
    assert engine.step() == [bad]
    assert isinstance(bad.error, ZeroDivisionError)
    while good.phase != "done":
        engine.step()
    assert good.error is None
    assert len(good.answers) == len(document.facts)


def _three(tmp_path) -> list[Request]:
    """Documents of different lengths, which end at different times."""
    made = []
    for number, characters in enumerate((6_000, 2_000, 9_000)):
        document = make_document(characters, 4, seed=number, split="test", filler="business")
        path = tmp_path / f"{number}.txt"
        path.write_text(document.text)
        made.append(request(path, document, policy="namm-key", budget=64))
    return made


def _together(engine: Engine, requests: list[Request]) -> list:
    runs, waiting = [], list(requests)
    while waiting or any(run.phase != "done" for run in runs):
        while waiting and engine.free_slots:
            runs.append(engine.admit(waiting.pop(0)))
        engine.step()
    return runs


def _bits(run) -> list[bytes]:
    layers = run.memory.cache.layers
    return [layer.keys[:, :, : layer.used].contiguous().numpy().tobytes() for layer in layers]


@pytest.mark.parametrize(("slots", "threads"), [(2, 2), (3, 2)])
def test_side_by_side_every_bit_is_the_same_as_alone(bundled, tmp_path, slots, threads):
    requests = _three(tmp_path)
    alone = [Engine(bundled, 2, 2).complete(one) for one in requests]
    runs = _together(Engine(bundled, slots, threads), requests)
    for one, other in zip(alone, runs, strict=True):
        assert texts(one) == texts(other)
        assert _bits(one) == _bits(other)
        assert replace(one.usage, seconds={}, kv_byte_seconds=0, dense_byte_seconds=0) == replace(
            other.usage, seconds={}, kv_byte_seconds=0, dense_byte_seconds=0
        )


def test_a_long_document_has_all_cores_beside_others_too(bundled, tmp_path, monkeypatch):
    requests = _three(tmp_path)
    monkeypatch.setattr(
        "namm_runtime.engine.engine.LONG", requests[0].document.stat().st_size
    )  # the third is longer
    fed_by: dict[int, set[tuple[str, int]]] = {}
    original = Memory.feed

    def noted(self: Memory, *args: object, **kwargs: object) -> object:
        fed_by.setdefault(id(self), set()).add((threading.current_thread().name, torch.get_num_threads()))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Memory, "feed", noted)
    cores = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = Engine(bundled, 3, 3).complete(requests[2])
        runs = _together(Engine(bundled, 3, 3), requests)
    finally:
        torch.set_num_threads(cores)
    here = threading.current_thread().name
    assert [fed_by[id(run.memory)] for run in runs] == [{("slot-0_0", 1)}, {("slot-1_0", 1)}, {(here, 2)}]
    assert _bits(runs[2]) == _bits(alone)


def test_side_by_side_no_second_is_paid_for_twice(bundled, tmp_path):
    engine = Engine(bundled, 3, 3)
    begun = time.perf_counter()
    runs = _together(engine, _three(tmp_path))
    elapsed = time.perf_counter() - begun
    assert all(run.usage.seconds["read"] > 0 for run in runs)
    assert sum(sum(run.usage.seconds.values()) for run in runs) <= elapsed


def test_side_by_side_a_run_that_fails_takes_no_other_along(bundled, tmp_path):
    first, second, third = _three(tmp_path)
    second.document.write_bytes(b"\xff\xfe\x00")
    runs = _together(Engine(bundled, 3, 3), [first, second, third])
    assert [run.error is None for run in runs] == [True, False, True]
    assert all(len(run.answers) == 4 for run in (runs[0], runs[2]))
