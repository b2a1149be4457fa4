"""What may serve and what may not, decided without a service."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from namm_runtime.scorer import checkpoint
from namm_runtime.verify import golden_scores, verify
from tests.support import scorer_files
from tests.support.depth import deep
from tests.support.scorer_files import MANIFEST, SPOILT, TENSORS, manifest


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Puts files into a folder and gives the verdict; bad ones are to be found before anything is read."""

    def run(name="mine", version="1", **files):
        for file, content in files.items():
            (tmp_path / file.replace("_", ".")).write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
        return verify(tmp_path, tmp_path / "out", name, version)

    return run


def assert_rejected(verdict, tmp_path):
    assert verdict["verified"] is False
    assert verdict["code"].startswith(("scorer_", "checkpoint_")), verdict
    assert len(verdict["message"].split()) > 3, verdict
    assert str(tmp_path) not in verdict["message"]


def test_a_good_scorer_keeps_its_numbers_and_gets_the_name_it_was_uploaded_under(judge, tmp_path):
    verdict = judge("mine", "7", scorer_safetensors=TENSORS, manifest_json=manifest("other", None))
    assert verdict == {"verified": True, "sha256": MANIFEST["sha256"]}
    assert (tmp_path / "out" / "scorer.safetensors").read_bytes() == TENSORS
    loaded = checkpoint.load(tmp_path / "out")
    assert (loaded.name, loaded.version, loaded.sha256) == ("mine", "7", verdict["sha256"])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "scorer.safetensors",
    ]


def test_a_reference_checkpoint_is_converted(judge, tmp_path):
    verdict = judge("theirs", "3", checkpoint_pt=scorer_files.checkpoint())
    assert verdict["verified"], verdict
    loaded = checkpoint.load(tmp_path / "out")
    assert (loaded.name, loaded.version, loaded.sha256) == ("theirs", "3", verdict["sha256"])
    assert torch.equal(loaded.parameters, torch.linspace(-0.1, 0.1, 4172))
    assert loaded.regime.mode == "parity"


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_files_are_rejected_with_a_sentence(judge, tmp_path, what):
    content, entries = SPOILT[what]()
    assert_rejected(judge(scorer_safetensors=content, manifest_json=entries), tmp_path)


@pytest.mark.parametrize("name", ["", "colour"])
def test_unknown_entries_are_named(judge, name):
    for entries in (manifest(**{name: 1}), manifest(config={**MANIFEST["config"], name: 1})):
        verdict = judge(scorer_safetensors=TENSORS, manifest_json=entries)
        assert verdict["code"] == "scorer_unreadable"
        assert repr(name) in verdict["message"]


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_manifests_that_are_no_object_are_rejected(judge, tmp_path, text):
    assert_rejected(judge(scorer_safetensors=TENSORS, manifest_json=text), tmp_path)


@pytest.mark.parametrize("files", [{}, {"scorer_safetensors": TENSORS}, {"manifest_json": manifest()}])
def test_missing_files_are_rejected(judge, tmp_path, files):
    assert_rejected(judge(**files), tmp_path)


def test_files_too_large_are_rejected_unread(judge, tmp_path):
    large = TENSORS + bytes(checkpoint.MAX_BYTES)
    assert "larger" in judge(scorer_safetensors=large, manifest_json=manifest())["message"]
    padded = manifest(provenance={"notes": "x" * (1 << 20)})
    assert "larger" in judge(scorer_safetensors=TENSORS, manifest_json=padded)["message"]


def test_spoilt_checkpoints_are_rejected_and_run_nothing(judge, tmp_path):
    owned = tmp_path / "owned"
    for content in scorer_files.spoilt_checkpoints(f"touch {owned}").values():
        assert_rejected(judge(checkpoint_pt=content), tmp_path)
    assert not owned.exists()


@pytest.mark.deep
@given(place=st.integers(0, len(TENSORS) - 1), byte=st.integers(0, 255), lost=st.integers(0, 64))
@settings(
    deadline=None, max_examples=deep(200, 5000), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_found_by_the_hash(judge, tmp_path, place, byte, lost):
    content = TENSORS[:place] + bytes([byte]) + TENSORS[place + 1 + lost :]
    assume(content != TENSORS)
    assert_rejected(judge(scorer_safetensors=content, manifest_json=manifest()), tmp_path)


@pytest.mark.deep
@given(place=st.integers(0, 700), content=st.binary(min_size=1, max_size=12))
@settings(
    deadline=None, max_examples=deep(200, 5000), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_verified_is_whole_whatever_its_author_did(judge, tmp_path, monkeypatch, place, content):
    """The hash is right here: only what the file says counts."""
    monkeypatch.setattr("namm_runtime.verify.smoke_read", lambda scorer: None)
    damaged = TENSORS[:place] + content + TENSORS[place + len(content) :]
    entries = manifest(sha256=hashlib.sha256(damaged).hexdigest())
    verdict = judge(scorer_safetensors=damaged, manifest_json=entries)
    if not verdict["verified"]:
        assert_rejected(verdict, tmp_path)
        return
    loaded = checkpoint.load(tmp_path / "out")
    for tensor in (loaded.parameters, loaded.mean, loaded.variance, golden_scores(loaded)):
        assert torch.isfinite(tensor).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = [("config", name) for name in MANIFEST["config"]] + [
    ("regime", name) for name in MANIFEST["regime"]
]


@pytest.mark.deep
@given(entry=st.sampled_from([*ENTRIES, *((name, None) for name in MANIFEST)]), value=JSON)
@settings(
    deadline=None, max_examples=deep(300, 5000), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_manifests_are_refused_or_mean_something(judge, tmp_path, monkeypatch, entry, value):
    monkeypatch.setattr("namm_runtime.verify.smoke_read", lambda scorer: None)
    section, name = entry
    entries = manifest(**{section: value if name is None else MANIFEST[section] | {name: value}})
    verdict = judge(scorer_safetensors=TENSORS, manifest_json=entries)
    if verdict["verified"]:
        assert torch.isfinite(golden_scores(checkpoint.load(tmp_path / "out"))).all()
    else:
        assert_rejected(verdict, tmp_path)


def test_golden_scores_are_the_same_in_every_process():
    scorer = checkpoint.load(checkpoint.BUNDLED / "namm-key")
    scores = golden_scores(scorer)
    assert scores.shape == (1, 2, 96)
    assert scores.std() > 0, "the golden features tell tokens apart"
    assert torch.equal(scores, golden_scores(scorer))


def test_the_process_writes_a_verdict(tmp_path):
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "namm_runtime.verify",
            tmp_path,
            tmp_path / "out",
            "--name",
            "a",
            "--version",
            "1",
        ],
        check=False,
    )
    assert done.returncode == 0
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert verdict["verified"] is False
    assert verdict["code"] == "scorer_unreadable"
