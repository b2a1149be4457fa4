"""A memory that was saved and read on is the memory that was never interrupted."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from namm_runtime import policies
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal
from namm_runtime.policies.h2o import H2O
from namm_runtime.policies.snapkv import SnapKV
from namm_runtime.policies.streaming import Streaming


def memory(model, make_scorer, name="namm", budget=96, **kwargs) -> Memory:
    return Memory(model, policies.make(name, budget, make_scorer(**kwargs)), budget, 128)


def same(one: Memory, other: Memory) -> bool:
    return all(
        torch.equal(getattr(a, name)[:, :, : a.used], getattr(b, name)[:, :, : b.used])
        for a, b in zip(one.cache.layers, other.cache.layers, strict=True)
        for name in ("keys", "values", "positions")
    )


@pytest.mark.parametrize(
    "name", ["namm", "h2o", "snapkv", "l2", "keydiff", "keydiff-token", "streaming", "full"]
)
@pytest.mark.parametrize("cut", [128, 700, 1279])
def test_save_and_read_on_equals_reading_straight(model, make_scorer, ids, tmp_path, name, cut):
    straight = memory(model, make_scorer, name)
    straight.feed(ids[:, :cut])
    expected = straight.feed(ids[:, cut:])
    first = memory(model, make_scorer, name)
    first.feed(ids[:, :cut])
    first.save(tmp_path / "m.safetensors", {"place": 7})
    second = memory(model, make_scorer, name)
    assert second.restore(tmp_path / "m.safetensors") == {"place": 7}
    assert torch.equal(second.feed(ids[:, cut:]), expected)
    assert same(straight, second)
    assert second.clock == 1280


def test_a_fork_leaves_its_origin_alone(model, make_scorer, ids):
    origin = memory(model, make_scorer)
    origin.feed(ids[:, :700])
    fork = origin.fork()
    expected = memory(model, make_scorer)
    expected.feed(ids[:, :700])
    fork.feed(ids[:, 700:])
    assert same(origin, expected)
    assert not same(origin, fork)
    assert torch.equal(origin.feed(ids[:, 700:]), expected.feed(ids[:, 700:]))


def everything(memory: Memory) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in memory.tensors().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["namm", "h2o", "snapkv", "streaming"])
def test_questions_on_forks_disturb_neither_each_other_nor_the_document(model, make_scorer, ids, name):
    def document() -> Memory:
        read = memory(model, make_scorer, name)
        read.feed(ids[:, :700])  # 60 tokens after an eviction: 12 queries wait for a frame
        return read

    parent = document()
    assert "0.queries" in parent.tensors() or not parent.policy.observes
    before = everything(parent)
    questions = [ids[:, 700:900], ids[:, 900:1100], ids[:, 1100:1103]]
    forks = [parent.fork() for _ in questions]
    logits = {}
    for begin in range(0, 200, 7):  # in turns, a few tokens at a time, across evictions
        for number, (fork, question) in enumerate(zip(forks, questions, strict=True)):
            if begin < question.shape[1]:
                logits[number] = fork.feed(question[:, begin : begin + 7])
    assert equal(before, everything(parent))
    for number, (fork, question) in enumerate(zip(forks, questions, strict=True)):
        alone = document()
        for piece in question.split(7, dim=1):
            expected = alone.feed(piece)
        assert torch.equal(logits[number], expected)
        assert equal(everything(fork), everything(alone))
        assert not equal(everything(fork), before)


def test_a_fork_is_saved_beside_its_memory(model, make_scorer, ids, tmp_path):
    parent = memory(model, make_scorer)
    parent.feed(ids[:, :700])
    fork = parent.fork()
    fork.feed(ids[:, 700:723])
    parent.save(tmp_path / "m", forks={"question": fork})
    one, two = memory(model, make_scorer), memory(model, make_scorer)
    one.restore(tmp_path / "m")
    two.restore(tmp_path / "m", "question")
    assert equal(everything(one), everything(parent))
    assert equal(everything(two), everything(fork))
    with pytest.raises(Refusal) as refusal:
        two.restore(tmp_path / "m", "another")
    assert refusal.value.code == "snapshot_unreadable"


def test_another_scorer_or_setting_is_refused(model, make_scorer, ids, tmp_path):
    saved = memory(model, make_scorer)
    saved.feed(ids)
    saved.save(tmp_path / "m")
    for other in (memory(model, make_scorer, "h2o"), memory(model, make_scorer, budget=112)):
        with pytest.raises(Refusal) as refusal:
            other.restore(tmp_path / "m")
        assert refusal.value.code == "snapshot_mismatch"


OTHERS = {
    "numbers": {"seed": 1},
    "recency clip": {"recency_clip": 100},
    "threshold": {"threshold": 0.0},
    "decay": {"gamma": 0.98},
    "blind": {"spectrum_zeroed": True},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_scorer_that_differs_in_anything_is_another(model, make_scorer, ids, tmp_path, what):
    """Never saved scorers too, and those whose tensors are the same."""
    saved = memory(model, make_scorer)
    saved.feed(ids[:, :300])
    saved.save(tmp_path / "m")
    memory(model, make_scorer).restore(tmp_path / "m")
    with pytest.raises(Refusal) as refusal:
        memory(model, make_scorer, **OTHERS[what]).restore(tmp_path / "m")
    assert refusal.value.code == "snapshot_mismatch"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SnapKV(32), SnapKV(64)),
        (SnapKV(), SnapKV(kernel=None)),
        (H2O(48), H2O(8)),
        (Streaming(4), Streaming(0)),
    ],
)
def test_a_policy_with_other_settings_is_another(model, ids, tmp_path, one, other):
    saved = Memory(model, one, 96, 128)
    saved.feed(ids[:, :300])
    saved.save(tmp_path / "m")
    Memory(model, one, 96, 128).restore(tmp_path / "m")
    with pytest.raises(Refusal) as refusal:
        Memory(model, other, 96, 128).restore(tmp_path / "m")
    assert refusal.value.code == "snapshot_mismatch"


@pytest.mark.parametrize("content", [b"", b"not a snapshot", b"\x10\0\0\0\0\0\0\0{}"])
def test_damaged_snapshots_are_refused(model, make_scorer, tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        memory(model, make_scorer).restore(tmp_path / "m")
    assert refusal.value.code in {"snapshot_unreadable", "snapshot_mismatch"}


def test_truncated_snapshots_are_refused(model, make_scorer, ids, tmp_path):
    saved = memory(model, make_scorer)
    saved.feed(ids)
    saved.save(tmp_path / "m")
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-100])
    with pytest.raises(Refusal) as refusal:
        memory(model, make_scorer).restore(tmp_path / "m")
    assert refusal.value.code == "snapshot_unreadable"


@pytest.mark.parametrize("damage", ["layer", "queries", "value", "shape"])
def test_snapshots_with_other_contents_are_refused(model, make_scorer, ids, tmp_path, damage):
    saved = memory(model, make_scorer)
    saved.feed(ids[:, :505])
    saved.save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    match damage:
        case "layer":
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("/1.")}
        case "queries":
            tensors.pop("/0.queries")
        case "value":
            tensors["/0.keys"][0, 0, 3] = torch.nan
        case "shape":
            tensors["/0.keys"] = tensors["/0.keys"][:, :, 1:].contiguous()
    save_file(tensors, tmp_path / "m", metadata)
    with pytest.raises(Refusal) as refusal:
        memory(model, make_scorer).restore(tmp_path / "m")
    assert refusal.value.code == "snapshot_unreadable"


def test_an_empty_snapshot_empties_a_memory(model, make_scorer, ids, tmp_path):
    memory(model, make_scorer).save(tmp_path / "m")
    used = memory(model, make_scorer)
    used.feed(ids[:, :100])
    used.restore(tmp_path / "m")
    assert used.clock == 0
    fresh = memory(model, make_scorer)
    assert torch.equal(used.feed(ids), fresh.feed(ids))


def test_forks_may_be_fed_in_threads(model, make_scorer, ids):
    """One policy and one model for all, and each thread with temporaries of its own."""
    origin = memory(model, make_scorer)
    origin.feed(ids[:, :256])
    forks = [origin.fork() for _ in range(4)]
    pieces = [ids[:, 256 + 200 * n : 456 + 200 * n] for n in range(4)]
    expected = [origin.fork().feed(piece) for piece in pieces]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            fed = list(pool.map(lambda fork, piece: fork.fork().feed(piece), forks, pieces))
            assert all(torch.equal(one, other) for one, other in zip(fed, expected, strict=True))


def test_intervals_must_suit_the_spectrogram(model, make_scorer):
    with pytest.raises(Refusal) as refusal:
        Memory(model, policies.make("namm", 96, make_scorer()), 96, 100)
    assert refusal.value.code == "bad_interval"
