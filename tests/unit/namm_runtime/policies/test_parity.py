"""The reference's keep rule, documents that do not depend on the batch, and regimes that are refused."""

import copy
from dataclasses import replace

import pytest
import torch

from namm_runtime import policies
from namm_runtime.attention.rope import Rotation
from namm_runtime.attention.spectrogram import Spectrogram
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine import Engine, Request
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig
from namm_runtime.scorer.normaliser import Normaliser
from namm_runtime.scorer.regime import Regime


@pytest.fixture(scope="module")
def model(plain, model) -> LoadedModel:
    """The random model with louder queries: their attention differs from key to key, so that scores do."""
    bounded = copy.deepcopy(plain)
    for layer in bounded.model.layers:
        layer.self_attn.q_proj.weight.data.mul_(60)
    bounded.set_attn_implementation("bounded")
    return LoadedModel("sharp", "r1", bounded, model.tokenizer, Rotation.of(bounded), 4096)


def scorer(seed: int = 0, cap: int | None = None, interval: int = 512, **config: object) -> Scorer:
    """A random scorer whose scores lie on both sides of the threshold."""
    settings = ScorerConfig(**config)  # type: ignore[arg-type]
    parameters = torch.randn(settings.bam.size, generator=torch.Generator().manual_seed(seed)) * 0.2
    regime = Regime("parity", cap, interval, "absolute")
    return Scorer("r", "1", settings, parameters, torch.full((17,), 0.02), torch.full((17,), 4e-4), regime)


def parity(model, ids, cuts=(), **kwargs) -> Memory:
    own = scorer(**kwargs)
    memory = Memory(model, Namm(own, mode="parity"), None, own.regime.interval, by_slot=False)
    for piece in ids.tensor_split(list(cuts), dim=1):
        memory.feed(piece)
    return memory


def filled(tokens: int, cap: int | None, rows: int = 1) -> BoundedLayer:
    layer = BoundedLayer(cap, tokens, {})
    keys = torch.arange(tokens).float().view(1, 1, tokens, 1).expand(rows, 2, tokens, 2)
    layer.update(keys, keys)
    return layer


def kept(layer: BoundedLayer, row: int = 0) -> list[list[int]]:
    return [layer.positions[row, head, : int(layer.lengths[row, head])].tolist() for head in range(2)]


def test_the_head_with_most_positives_sets_the_length():
    layer = filled(6, None)
    layer.compact(torch.tensor([[[1.0, -1, 2, -3, 0, 3], [-5, -1, -2, -3, -4, 9]]]), 0.0, rectangular=True)
    assert kept(layer) == [[0, 2, 4, 5], [1, 2, 3, 5]]  # the second head keeps its best negatives
    layer.check_integrity()


def test_the_cap_comes_before_the_threshold():
    layer = filled(6, 3)
    layer.compact(torch.tensor([[[1.0, 2, 3, 4, 5, 6], [-5, -1, -2, -3, -4, 9]]]), 0.0, rectangular=True)
    assert kept(layer) == [[3, 4, 5], [1, 2, 5]]


def test_rows_keep_their_own_lengths():
    scores = torch.tensor([[[1.0, -1, -2, 9], [-1, -2, -3, 9]], [[1, 2, 3, 9], [-1, -2, -3, 9]]])
    layer = filled(4, None, rows=2)
    layer.compact(scores, 0.0, rectangular=True)
    assert layer.lengths.tolist() == [[2, 2], [4, 4]]
    alone = filled(4, None)
    alone.compact(scores[:1].clone(), 0.0, rectangular=True)
    assert kept(layer) == kept(alone)
    layer.check_integrity()


def test_a_document_does_not_depend_on_the_batch(model):
    ids = torch.randint(0, 300, (2, 1100), generator=torch.Generator().manual_seed(5))
    both = parity(model, ids, interval=256)
    lengths = [layer.lengths for layer in both.cache.layers]
    assert any((row[0] != row[1]).any() for row in lengths), "the rows should keep different numbers"
    for row in range(2):
        alone = parity(model, ids[row : row + 1], interval=256)
        for one, other in zip(alone.cache.layers, both.cache.layers, strict=True):
            length = int(one.lengths[0, 0])
            assert torch.equal(one.lengths[0], other.lengths[row])
            assert torch.equal(one.positions[0, :, :length], other.positions[row, :, :length])


@pytest.mark.parametrize("cuts", [(512, 1024), (100, 101, 700, 1100), range(1000, 1060)])
def test_evictions_fall_on_multiples_however_tokens_come(model, ids, cuts):
    whole = parity(model, ids)
    pieces = parity(model, ids, cuts)
    for one, other in zip(whole.cache.layers, pieces.cache.layers, strict=True):
        assert one.pending == other.pending == 1280 - 1024
        assert 0 < one.start < 1024
        assert torch.equal(one.positions[:, :, : one.used], other.positions[:, :, : other.used])


def test_a_fresh_document_remembers_nothing(model, ids):
    policy = Namm(scorer(), mode="parity")
    first = Memory(model, policy, None, by_slot=False)
    expected = first.feed(ids)
    again = Memory(model, policy, None, by_slot=False)
    assert torch.equal(again.feed(ids), expected)


def test_the_cache_grows_without_a_cap_and_not_with_one(model, ids):
    zero = scorer()
    zero.parameters.zero_()
    memory = Memory(model, Namm(zero, mode="parity"), None, by_slot=False)
    memory.feed(ids.repeat(1, 4))
    layer = memory.cache.layers[0]
    assert layer.used == 5120  # scores of zero keep everything
    assert 5120 <= layer.capacity <= 5120 * 9 / 8 + 64
    capped = parity(model, ids, cap=100).cache.layers[0]
    assert capped.capacity == 612
    assert int(capped.lengths.max()) <= 100


def test_saving_and_reading_on_equals_reading_straight(model, ids, tmp_path):
    straight = parity(model, ids[:, :1100])
    expected = straight.feed(ids[:, 1100:])
    parity(model, ids[:, :1100]).save(tmp_path / "m")
    resumed = Memory(model, Namm(scorer(), mode="parity"), None, by_slot=False)
    resumed.restore(tmp_path / "m")
    assert torch.equal(resumed.feed(ids[:, 1100:]), expected)


@pytest.mark.parametrize(
    "settings",
    [{"by_slot": True}, {"budget": 64}, {"interval": 256}, {"budget": 64, "cap": 100}, {"watch_last": 64}],
)
def test_other_regimes_are_refused(model, settings):
    own = scorer(cap=settings.get("cap"))
    with pytest.raises(Refusal) as refusal:
        Memory(
            model,
            Namm(own, mode="parity"),
            settings.get("budget"),
            settings.get("interval", 512),
            settings.get("by_slot", False),
            watch_last=settings.get("watch_last"),
        )
    assert refusal.value.code == "regime_mismatch"


@pytest.mark.parametrize(
    "config", [{"recency_clip": 8192}, {"threshold": None}, {"key_input": True}, {"spectrum_zeroed": True}]
)
def test_scorers_beyond_the_reference_are_refused(config):
    with pytest.raises(Refusal) as refusal:
        Namm(scorer(**config), mode="parity")
    assert refusal.value.code == "regime_mismatch"


def test_heuristics_have_no_parity_mode():
    with pytest.raises(Refusal) as refusal:
        policies.make("h2o", 64, mode="parity")
    assert refusal.value.code == "regime_mismatch"


def test_statistics_being_gathered_are_not_saved(model, ids, tmp_path):
    policy = Namm(scorer(), mode="parity", normaliser=Normaliser(frozen=False))
    memory = Memory(model, policy, None, by_slot=False)
    memory.feed(ids[:, :600])
    assert policy.normaliser.gathered.count == 2 * 2 * 512
    with pytest.raises(Refusal) as refusal:
        memory.save(tmp_path / "m")
    assert refusal.value.code == "snapshot_unsupported"


def test_rounding_attention_as_the_reference_does_in_bf16_is_bounded():
    """Two roundings of 2⁻⁸ each; a frame's bins are sums of what is rounded, at most the lowest one."""
    logits = torch.randn(2, 3, 4, 512, 40, generator=torch.Generator().manual_seed(0)) * 4
    weights = logits.softmax(dim=-1)
    spectra = []
    for columns in (weights.mean(dim=2), weights.bfloat16().mean(dim=2).float()):
        ema, carry = torch.zeros(2, 3, 40, 17), torch.zeros(2, 3, 40, 16)
        Spectrogram().fold(columns, ema, carry)
        spectra.append(ema)
    ours, reference = spectra
    difference = ((ours - reference).abs() / ours[..., :1]).max()
    assert 1e-4 < difference < 2**-7


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Over the bundled model, whose window is 2,048."""
    return Engine(replace(load_model("bundled"), window=2048))


@pytest.fixture
def request_for(tmp_path):
    scorer(cap=300).save(tmp_path / "scorer")
    (tmp_path / "d.txt").write_text("Invoice 4821 total: 9310. Nothing else was due that day.\n" * 90)

    def make(**kwargs: object) -> Request:
        settings = {"policy": "namm", "scorer": tmp_path / "scorer", "max_output_tokens": 4} | kwargs
        return Request(tmp_path / "d.txt", ("Invoice 4821 total:",), **settings)

    return make


def test_a_reference_scorer_runs_in_its_own_regime(engine, request_for):
    run = engine.complete(request_for(positions="absolute"))
    assert run.memory.policy.mode == "parity"
    assert run.usage.positions == "absolute"
    assert run.usage.regime_matches
    assert all(int(layer.lengths.max()) <= 300 for layer in run.memory.cache.layers)


def test_budget_mode_is_served_on_request_and_flagged(engine, request_for):
    run = engine.complete(request_for(mode="budget", budget=128))
    assert run.memory.budget == 128
    assert not run.usage.regime_matches


@pytest.mark.parametrize(
    "settings",
    [{"positions": "cache-relative"}, {"budget": 64}, {"policy": "h2o", "mode": "parity"}, {"mode": "x"}],
)
def test_other_settings_are_refused(engine, request_for, settings):
    with pytest.raises(Refusal) as refusal:
        engine.complete(request_for(**settings))
    assert refusal.value.code == "regime_mismatch"


def test_documents_beyond_the_window_are_refused_unless_absolute_is_asked_for(engine, request_for, tmp_path):
    (tmp_path / "d.txt").write_text("Order 17 owner: Ines Okafor. " * 400)
    with pytest.raises(Refusal) as refusal:
        engine.complete(request_for())
    assert refusal.value.code == "regime_mismatch"
    assert engine.complete(request_for(positions="absolute")).tokens_read > engine.model.window
