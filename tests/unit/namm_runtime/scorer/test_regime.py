"""A scorer serves in its own regime unless another is asked for, and what differs is said."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.engine import Engine, Refusal, Request
from namm_runtime.model.loading import load_model
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.regime import Regime, Serving, Settings, default_regime, difference

EVOLVED = Regime("budget", 16, 512, "cache-relative", 8192)


def test_what_differs_is_named_with_who_asked_for_it():
    assert difference(EVOLVED, Serving(), EVOLVED, Settings(budget=16)) is None
    served = replace(EVOLVED, budget=512, positions="absolute", interval=256)
    said = difference(EVOLVED, Serving(budget=512), served, Settings(positions="absolute", interval=256))
    assert said == (
        "The scorer was evolved with 16 slots per head and an eviction every 512 tokens and cache-relative "
        "positions; served with 512 slots per head (by its manifest) and an eviction every 256 tokens "
        "(on request) and absolute positions (on request)."
    )
    assert "512 slots per head (by default)" in difference(
        EVOLVED, Serving(), replace(EVOLVED, budget=512), Settings()
    )


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("mode", "parity", "parity mode"),
        ("budget", None, "no limit on slots"),
        ("interval", 256, "every 256 tokens"),
        ("positions", "absolute", "absolute positions"),
        ("recency_clip", None, "unclipped recency"),
        ("watch_last", 128, "only the last 128 queries"),
    ],
)
def test_every_part_of_a_regime_counts(name, other, words):
    said = difference(EVOLVED, Serving(), replace(EVOLVED, **{name: other}), Settings())
    assert said is not None
    assert words in said.partition("served with")[2]


def test_a_manifest_may_serve_in_another_setting_and_parity_may_not():
    serving = Serving(budget=512, interval=256)
    assert default_regime(EVOLVED, serving, "budget") == replace(EVOLVED, budget=512, interval=256)
    assert default_regime(EVOLVED, Serving(), "budget") == EVOLVED
    parity = Regime("parity", 1024, 512, "absolute")
    assert default_regime(parity, serving, "parity") == parity


def test_the_clip_is_the_manifests_own_where_its_regime_does_not_say(tmp_path):
    scorer = checkpoint.load(checkpoint.resolve("namm-key").path)
    scorer.save(tmp_path / "s")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    del manifest["regime"]["recency_clip"], manifest["serving"]
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    loaded = checkpoint.load(tmp_path / "s")
    assert loaded.regime.recency_clip == 8192
    assert loaded.serving == Serving()


def test_bundled_scorers_say_what_they_were_validated_with():
    for ref in checkpoint.bundled():
        scorer = checkpoint.load(ref.path)
        assert scorer.serving.budget == 512
        assert scorer.regime.recency_clip == scorer.config.recency_clip == 8192


def evolved_slots(name: str) -> int:
    budget = checkpoint.load(checkpoint.resolve(name).path).regime.budget
    assert budget is not None
    return budget


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(replace(load_model("bundled"), window=2048))


@pytest.fixture
def ask(engine, tmp_path):
    """Runs a document of about 1,500 tokens, within the window of 2,048."""
    (tmp_path / "d.txt").write_text("Invoice 4821 total: 9310. Nothing else was due that day.\n" * 60)

    def run(**settings):
        request = {"policy": "namm-key", "max_output_tokens": 4} | settings
        return engine.complete(Request(tmp_path / "d.txt", ("Invoice 4821 total:",), **request)).usage

    return run


def test_a_job_that_does_not_say_gets_the_manifests_setting_and_is_told(ask):
    usage = ask()
    assert (usage.mode, usage.budget, usage.interval) == ("budget", 512, 512)
    assert usage.positions == "cache-relative", "as evolved, though the document fits the window"
    assert not usage.regime_matches
    slots = evolved_slots("namm-key")
    assert usage.regime == (
        f"The scorer was evolved with {slots} slots per head; "
        "served with 512 slots per head (by its manifest)."
    )


def test_a_scorer_without_a_serving_setting_gets_its_regime(ask, tmp_path):
    replace(checkpoint.load(checkpoint.resolve("namm").path), serving=Serving()).save(tmp_path / "s")
    usage = ask(policy="namm", scorer=tmp_path / "s")
    assert usage.budget == evolved_slots("namm")
    assert usage.regime_matches
    assert usage.regime is None


def test_a_clip_that_the_scorer_was_not_evolved_with_is_flagged(ask, tmp_path):
    scorer = checkpoint.load(checkpoint.resolve("namm").path)
    evolved = replace(scorer.regime, recency_clip=None)
    replace(scorer, regime=evolved, serving=Serving()).save(tmp_path / "s")
    usage = ask(policy="namm", scorer=tmp_path / "s")
    assert not usage.regime_matches
    assert usage.regime == (
        "The scorer was evolved with unclipped recency; served with recency clipped at 8,192 tokens "
        "(by its manifest)."
    )


def test_other_settings_are_served_on_request_and_flagged(ask):
    usage = ask(budget=64, interval=256, positions="auto")
    assert (usage.budget, usage.interval, usage.positions) == (64, 256, "absolute")
    assert usage.regime.count("(on request)") == 3
    assert ask(watch_last=64).regime.endswith("and only the last 64 queries observed (on request).")


def test_a_scorer_evolved_with_places_in_the_text_keeps_to_them(ask, tmp_path):
    scorer = checkpoint.load(checkpoint.resolve("namm").path)
    replace(scorer, regime=replace(scorer.regime, positions="absolute")).save(tmp_path / "s")
    assert ask(policy="namm", scorer=tmp_path / "s").positions == "absolute"
    with pytest.raises(Refusal) as refusal:
        ask(policy="namm", scorer=tmp_path / "s", max_output_tokens=1000)
    assert refusal.value.code == "regime_mismatch"
    asked = ask(policy="namm", scorer=tmp_path / "s", positions="auto", max_output_tokens=1000)
    assert asked.positions == "cache-relative"


def test_heuristics_keep_their_default(ask):
    usage = ask(policy="keydiff")
    assert (usage.budget, usage.interval, usage.positions) == (512, 512, "absolute")
    assert usage.regime_matches
    assert usage.regime is None
    full = ask(policy="full")
    assert (full.budget, full.interval) == (None, None)


def test_the_command_line_says_it(tmp_path):
    (tmp_path / "d.txt").write_text("Invoice 4821 total: 9310.\n" * 30)
    runner = CliRunner()
    arguments = ["read", str(tmp_path / "d.txt"), "--ask", "Invoice 4821 total:", "--budget", "64"]
    told = " ".join(runner.invoke(app, arguments).stdout.split())
    slots = evolved_slots("namm-key")
    assert f"evolved with {slots} slots per head" in told
    assert "cache-relative positions" in told
    report = json.loads(runner.invoke(app, [*arguments, "--positions", "auto", "--json"]).stdout)
    assert report["usage"]["positions"] == "absolute"
    assert "(on request)" in report["usage"]["regime"]
    shown = runner.invoke(app, ["inspect", "namm-key"]).stdout
    assert f"evolved in: budget mode, {slots} slots per head, an eviction every 512 tokens" in shown
    assert "serves in: budget mode, 512 slots per head" in " ".join(shown.split())
    listed = " ".join(runner.invoke(app, ["scorers"]).stdout.split())
    assert "namm-key@" in listed
    assert f"{slots} slots │ 512 slots" in listed
