"""A worker takes uploaded scorers, has them verified in another process and outlives whatever that does."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text

from store import blobs, outbox
from store.database import Database
from store.scorers import registry
from store.settings import Settings
from store.tables.scorers import ScorerVersion
from tests.support import scorer_files
from tests.support.scorer_files import MANIFEST, TENSORS, manifest
from worker.engine.process import WorkerProcess
from worker.loops.reaper import reap_once
from worker.scorers import verification
from worker.scorers.verification import verify_uploads

Upload = Callable[..., str]


@pytest.fixture
def upload(config: Settings, db: Database) -> Upload:
    """Puts files where the API puts them, and registers them → the key of the folder."""

    def put(version: str = "1", **files: Any) -> str:
        if not files:
            files = {"scorer_safetensors": TENSORS, "manifest_json": manifest(version=version)}
        key = f"uploads/upl_{version}"
        for file, content in files.items():
            with blobs.connect(config).create(f"{key}/{file.replace('_', '.')}") as target:
                target.write(content if isinstance(content, bytes) else json.dumps(content).encode())
        kind = "reference" if "checkpoint_pt" in files else "safetensors"
        with db.session() as session:
            registry.upload(
                session,
                name="mine",
                version=version,
                kind=kind,
                upload_key=key,
                upload_sha256=version,
                actor="key_1",
            )
        return key

    return put


def look(db: Database, version: str = "1") -> ScorerVersion:
    with db.session() as session:
        return registry.get(session, "mine", version)


def test_a_good_upload_is_verified_and_stored(
    process: WorkerProcess, db: Database, config: Settings, upload: Upload
) -> None:
    key = upload("1")
    assert verify_uploads(process) == 1
    row = look(db)
    assert (row.state, row.reason, row.sha256) == ("verified", None, MANIFEST["sha256"])
    assert row.blob_key == "scorers/mine/1"
    assert row.checked_at is not None
    files = blobs.connect(config)
    with files.open("scorers/mine/1/scorer.safetensors") as file:
        assert hashlib.sha256(file.read()).hexdigest() == row.sha256
    with files.open("scorers/mine/1/manifest.json") as file:
        assert json.loads(file.read()) == row.manifest == manifest(version="1")
    assert files.names(key) == [], "the upload has served its purpose"
    assert verify_uploads(process) == 0


def test_a_reference_checkpoint_is_verified(process: WorkerProcess, db: Database, upload: Upload) -> None:
    upload("4", checkpoint_pt=scorer_files.checkpoint())
    verify_uploads(process)
    row = look(db, "4")
    assert row.state == "verified", row.reason
    assert row.manifest is not None
    assert (row.manifest["name"], row.manifest["version"]) == ("mine", "4")
    assert row.manifest["sha256"] == row.sha256


def test_bad_uploads_are_rejected_and_the_next_one_is_looked_at(
    process: WorkerProcess, db: Database, config: Settings, upload: Upload
) -> None:
    content, entries = scorer_files.SPOILT["NaN"]()
    first = upload("1", scorer_safetensors=content, manifest_json=entries)
    upload("2", checkpoint_pt=scorer_files.torched({"iter_num": scorer_files.Hostile("false")}))
    gone = upload("3")
    blobs.connect(config).delete_folder(gone)
    assert verify_uploads(process) == 3
    reasons = [look(db, version).reason or "" for version in "123"]
    codes = [reason.partition(":")[0] for reason in reasons]
    assert codes == ["scorer_not_finite", "checkpoint_unsafe", "upload_missing"]
    assert [look(db, version).state for version in "123"] == ["rejected"] * 3
    assert "/tmp" not in "".join(reasons)
    assert blobs.connect(config).names(first) == []
    assert blobs.connect(config).names("scorers") == []


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("abort", "verification_crashed", "by signal 6"),
        ("exit", "verification_crashed", "with status 7"),
        ("raise", "verification_crashed", "with status 1"),
        ("memory", "verification_memory", "GiB of memory"),
        ("silence", "verification_crashed", "no readable verdict"),
        ("nonsense", "verification_crashed", "no readable verdict"),
        ("lie", "verification_crashed", "no readable verdict"),
    ],
)
def test_a_process_that_dies_of_a_file_rejects_it(
    process: WorkerProcess,
    db: Database,
    upload: Upload,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    code: str,
    words: str,
) -> None:
    monkeypatch.setattr(verification, "CHILD", "tests.support.dying_verifier")
    upload("1", scorer_safetensors=TENSORS, manifest_json=manifest(provenance={"how": how}))
    assert verify_uploads(process) == 1
    row = look(db)
    assert row.state == "rejected"
    assert (row.reason or "").startswith(f"{code}: ")
    assert words in (row.reason or "")
    assert "a defect" not in (row.reason or ""), "what it said is for the log"


def test_a_process_that_takes_too_long_is_ended(
    process: WorkerProcess, db: Database, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "CHILD", "tests.support.dying_verifier")
    monkeypatch.setattr(verification, "SECONDS", 0.5)
    upload("1", scorer_safetensors=TENSORS, manifest_json=manifest(provenance={"how": "sleep"}))
    assert verify_uploads(process) == 1
    assert (look(db).reason or "").startswith("verification_timeout: ")


def test_the_process_is_told_no_secret(
    process: WorkerProcess, db: Database, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "CHILD", "tests.support.dying_verifier")
    monkeypatch.setenv("PALIMPSEST_API_KEY_PEPPER", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    upload("1", scorer_safetensors=TENSORS, manifest_json=manifest(provenance={"how": "environment"}))
    verify_uploads(process)
    names = (look(db).reason or "").removeprefix("environment: ").split()
    assert "PYTHONPATH" in names
    assert not [name for name in names if "PALIMPSEST" in name or "URL" in name or "SECRET" in name]


def test_a_version_that_one_worker_verifies_is_left_alone_by_others(db: Database, upload: Upload) -> None:
    upload("1")
    with db.session() as session:
        row = registry.next_to_verify(session, 60)
        assert row is not None
        assert row.attempts == 1
    with db.session() as session:
        assert registry.next_to_verify(session, 60) is None
    upload("2")
    with db.session() as session:
        row = registry.next_to_verify(session, 60)
        assert row is not None
        assert row.version == "2"


def test_a_version_that_workers_die_of_is_given_up(
    process: WorkerProcess, db: Database, upload: Upload
) -> None:
    upload("1")
    for attempt in range(1, registry.MOST_ATTEMPTS + 1):
        with db.session() as session:
            row = registry.next_to_verify(session, 60)
            assert row is not None
            assert row.attempts == attempt
        _let_pass(db)
    assert verify_uploads(process) == 0
    row = look(db)
    assert (row.state, (row.reason or "").partition(":")[0]) == ("rejected", "verification_died")


def _let_pass(db: Database) -> None:
    """The worker that took it is silent for longer than it may be."""
    with db.session() as session:
        session.execute(text("UPDATE scorer_versions SET checking_until = now() - interval '1 second'"))


def test_the_verdict_of_a_slow_worker_changes_nothing_any_more(
    process: WorkerProcess, db: Database, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload("1")

    def slowly(*_: Any) -> verification.Verdict:
        with db.session() as session:
            registry.mark_rejected(
                session, registry.get(session, "mine", "1"), "other", "Another worker was faster."
            )
        return verification.Verdict("late", "Too late.")

    monkeypatch.setattr(verification, "judge", slowly)
    assert verify_uploads(process) == 0
    assert look(db).reason == "other: Another worker was faster."


def test_a_worker_that_is_to_stop_takes_no_upload(
    process: WorkerProcess, db: Database, upload: Upload
) -> None:
    upload("1")
    with db.session() as session:
        session.execute(text("UPDATE workers SET stopping_at = now()"))
    assert verify_uploads(process) == 0
    assert look(db).attempts == 0


def hints(db: Database) -> list[str]:
    with db.session() as session:
        found = [hint.queue for hint in outbox.lock_hints(session)]
        outbox.drop(session, outbox.lock_hints(session))
    return found


def test_an_upload_hints_and_the_reaper_hints_again(
    config: Settings, process: WorkerProcess, db: Database, upload: Upload
) -> None:
    upload("1")
    upload("2")
    assert hints(db) == ["scorers", "scorers"]
    assert reap_once(db, process.blobs, config).hinted == 0, "the first hint is still young"
    old = text("UPDATE scorer_versions SET hinted_at = now() - interval '1 hour'")
    with db.session() as session:
        session.execute(old)
    assert reap_once(db, process.blobs, config).hinted == 1
    assert hints(db) == ["scorers"], "one hint for both: a worker looks at all of them"
    assert reap_once(db, process.blobs, config).hinted == 0
    with db.session() as session:
        session.execute(old)
        for _ in range(2):
            registry.next_to_verify(session, 60)
    assert reap_once(db, process.blobs, config).hinted == 0, "both are being verified"
    _let_pass(db)
    assert reap_once(db, process.blobs, config).hinted == 1
    with db.session() as session:
        for row in session.scalars(select(ScorerVersion)).all():
            registry.mark_rejected(session, row, "code", "A reason.")
        session.execute(old)
    assert reap_once(db, process.blobs, config).hinted == 0


@pytest.mark.parametrize("fails", ["open", "create", "names"])
def test_a_blob_store_that_fails_is_no_fault_of_the_upload(
    process: WorkerProcess, db: Database, upload: Upload, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(verification, "judge", _good)
    upload("1")

    def away(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/srv/secret/place")

    with monkeypatch.context() as patch:
        patch.setattr(blobs.Blobs, fails, away)
        for _ in range(registry.MOST_ATTEMPTS + 1):
            assert verify_uploads(process) == 0
            row = look(db)
            assert (row.state, row.attempts) == ("uploaded", 0)
            assert (row.reason or "").startswith(
                "storage_unavailable: The blob store failed (PermissionError)"
            )
            assert "/srv" not in (row.reason or "")
            assert verify_uploads(process) == 0, "it rests"
            _let_pass(db)
    assert verify_uploads(process) == 1
    row = look(db)
    assert (row.state, row.reason, row.attempts) == ("verified", None, 1)


def test_an_upload_that_cannot_be_removed_is_left_to_the_reaper(
    process: WorkerProcess, db: Database, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "judge", _good)
    upload("1")

    def away(*_: Any) -> None:
        raise OSError("away")

    monkeypatch.setattr(blobs.Blobs, "delete_folder", away)
    assert verify_uploads(process) == 1
    assert look(db).state == "verified"


def _good(folder: Any, out: Any, name: str, version: str) -> verification.Verdict:
    for file in verification.FILES:
        (out / file).write_bytes((folder / file).read_bytes())
    return verification.Verdict(None, sha256=str(MANIFEST["sha256"]))
