"""From an upload over HTTP to the verdict: what is spoilt never serves, and what is good does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from namm_runtime.verify import verify as decide
from store import workers
from tests.conftest import Api
from tests.support.scorer_files import MANIFEST, SPOILT, TENSORS, checkpoint, manifest, spoilt_checkpoints
from worker.engine.process import WorkerProcess
from worker.scorers import verification


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    with api.client(api.new_key(admin=True)) as client:
        yield client


@pytest.fixture
def worker(api: Api) -> WorkerProcess:
    with api.database.session() as session:
        workers.register(session, "wrk_test", "here", "cpu")
    return WorkerProcess(api.settings, api.database, "wrk_test")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict without a process of its own, which takes seconds to start."""

    def run_verifier(folder: Path, out: Path, name: str, version: str) -> verification.Verdict:
        found = decide(folder, out, name, version)
        (out / "verdict.json").write_text(json.dumps(found))
        return verification._read_verdict(out)

    monkeypatch.setattr(verification, "run_verifier", run_verifier)


def send(client: httpx.Client, version: str, **parts: bytes) -> httpx.Response:
    files = {part: ("file", content) for part, content in parts.items()}
    return client.post("/v1/scorers/mine/versions", files=files, data={"version": version})


def test_spoilt_uploads_are_refused_or_rejected_with_a_sentence(
    api: Api, admin: httpx.Client, worker: WorkerProcess, in_process: None, tmp_path: Path
) -> None:
    owned = tmp_path / "owned"
    uploads: list[dict[str, bytes]] = [
        {"checkpoint": one} for one in spoilt_checkpoints(f"touch {owned}").values()
    ]
    for spoil in SPOILT.values():
        content, entries = spoil()
        uploads.append({"scorer": content, "manifest": json.dumps(entries).encode()})
    for number, parts in enumerate(uploads):
        sent = send(admin, f"{number}", **parts)
        if sent.status_code != 201:
            assert 400 <= sent.status_code < 500
            assert sent.json()["detail"].endswith(".")
            continue
        assert verification.verify_uploads(worker) == 1
        shown = admin.get(f"/v1/scorers/mine/versions/{number}").json()
        assert shown["state"] == "rejected", (number, shown)
        assert len(shown["reason"].split()) > 4
        assert str(api.settings.data_dir) not in shown["reason"]
    states = {one["state"] for one in admin.get("/v1/scorers/mine/versions").json()["data"]}
    assert states == {"rejected"}
    assert api.stored_files() == []
    assert not owned.exists()


def test_good_uploads_serve(api: Api, admin: httpx.Client, worker: WorkerProcess) -> None:
    """With the real process."""
    send(admin, "1", scorer=TENSORS, manifest=json.dumps(manifest()).encode())
    send(admin, "2", checkpoint=checkpoint())
    assert verification.verify_uploads(worker) == 2
    shown: list[dict[str, Any]] = [admin.get(f"/v1/scorers/mine/versions/{one}").json() for one in "12"]
    assert [one["state"] for one in shown] == ["verified", "verified"], shown
    assert shown[0]["sha256"] == MANIFEST["sha256"]
    assert shown[0]["provenance"] == MANIFEST["provenance"]
    assert shown[1]["provenance"]["method"].startswith("imported")
    for one in shown:
        got = admin.get(f"/v1/scorers/mine/versions/{one['version']}/files/scorer.safetensors")
        assert got.headers["etag"] == f'"{one["sha256"]}"'
    body = {"version": "1", "scope": "global"}
    assert admin.post("/v1/scorers/mine/activations", json=body).status_code == 201
    differs = admin.get("/v1/scorers/mine/versions/1/diff?with=2").json()
    assert differs["same_parameters"] is False
    assert "regime.mode" in {one["path"] for one in differs["manifest"]}
