"""Verifies uploaded scorers one after another, each in a process of its own.

Whatever a file does to that process (a crash, an endless loop, exhausted memory) is a verdict about the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from store import log
from store.blobs import Blobs
from store.errors import NotFound, StoreError
from store.scorers import registry
from store.tables.scorers import ScorerVersion
from worker.engine.process import WorkerProcess

TIMEOUT_SECONDS = 120.0
MEMORY_BYTES = 8 << 30  # of address space, of which torch alone needs a part
LEASE_SECONDS = 600.0  # a worker that takes longer counts as dead; exceeds all limits below
POSTPONE_SECONDS = 30.0  # after the blob store failed
FILES = ("scorer.safetensors", "manifest.json")
VERIFIER = "namm_runtime.verify"
# The only environment variables that the child sees: no database URL, no secret.
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
_log = log.get("worker.scorers.verification")


class Verdict(NamedTuple):
    """The verdict on an upload: a code and a reason if it is rejected, otherwise the hash of its tensors."""

    code: str | None
    reason: str = ""
    sha256: str = ""


class StorageUnavailable(Exception):
    """The blob store failed, which says nothing about the upload."""


def folder_of(row: ScorerVersion) -> str:
    """The folder of a verified version's blobs."""
    return f"scorers/{row.name}/{row.version}"


def verify_uploads(process: WorkerProcess) -> int:
    """Verifies until no upload waits or the worker is told to stop; returns the number of verdicts."""
    verdicts = 0
    while not process.is_stopping():
        row = process.transaction(lambda session: registry.next_to_verify(session, LEASE_SECONDS))
        if row is None:
            break
        try:
            verdicts += _verify(process, row)
        except StorageUnavailable as error:
            _postpone(process, row, str(error))
    return verdicts


def _postpone(process: WorkerProcess, row: ScorerVersion, reason: str) -> None:
    process.transaction(lambda session: registry.postpone(session, row, reason, POSTPONE_SECONDS))


@contextmanager
def _storage(doing: str) -> Iterator[None]:
    """Raises StorageUnavailable for every error of a blob store except NotFound."""
    try:
        yield
    except NotFound:
        raise
    except Exception as error:
        _log.warning("storage_unavailable", doing=doing, error=str(error))
        # The error's own message may name folders of this machine.
        said = f"storage_unavailable: The blob store failed ({type(error).__name__}) while {doing}. "
        raise StorageUnavailable(said + "Verification will be retried.") from error


def _verify(process: WorkerProcess, row: ScorerVersion) -> bool:
    """Raises StorageUnavailable."""
    with tempfile.TemporaryDirectory(prefix="palimpsest-verify-") as name:
        folder, out = Path(name, "in"), Path(name, "out")
        for place in (folder, out):
            place.mkdir()
        try:
            with _storage("the upload was read"):
                _fetch(process.blobs, row.upload_key, folder)
        except NotFound:
            verdict = Verdict("upload_missing", "The uploaded files are no longer in the blob store.")
        else:
            verdict = run_verifier(folder, out, row.name, row.version)
        manifest: dict[str, Any] = {}
        if verdict.code is None:
            manifest = json.loads((out / "manifest.json").read_bytes())
            with _storage("the verified files were written"):
                _store(process.blobs, out, folder_of(row))

    def decide(session: Session) -> None:
        mine = registry.by_id(session, row.id)
        if verdict.code is not None:
            registry.mark_rejected(session, mine, verdict.code, verdict.reason)
        else:
            place = folder_of(row)
            registry.mark_verified(session, mine, blob_key=place, sha256=verdict.sha256, manifest=manifest)

    try:
        process.transaction(decide)
    except StoreError as error:
        _log.warning(
            "verdict_late", scorer=registry.label(row), error=str(error)
        )  # another worker's verdict stands
        return False
    _log.info("verdict", scorer=registry.label(row), code=verdict.code, reason=verdict.reason)
    with suppress(StorageUnavailable), _storage("the upload was removed"):  # otherwise the reaper removes it
        process.blobs.delete_folder(row.upload_key)
    return True


def _fetch(blobs: Blobs, prefix: str, folder: Path) -> None:
    """Raises NotFound."""
    names = blobs.names(prefix)
    if not names:
        raise NotFound(f"There are no blobs under {prefix}.")
    for name in names:
        with blobs.open(f"{prefix}/{name}") as source, (folder / Path(name).name).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def _store(blobs: Blobs, out: Path, prefix: str) -> None:
    for name in FILES:
        with (out / name).open("rb") as source, blobs.create(f"{prefix}/{name}") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def run_verifier(folder: Path, out: Path, name: str, version: str) -> Verdict:
    """The verdict of a child process on the files in `folder`; it writes the verified files to `out`."""
    command = [sys.executable, "-P", "-m", VERIFIER, str(folder), str(out)]
    command += ["--name", name, "--version", version, "--end-with-parent"]
    environment = {key: os.environ[key] for key in _PASSED if key in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        (out / "log").open("wb") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment, cwd=out
        ) as child,
    ):
        # Set from outside: this process has threads, so no Python code may run between fork and exec. Until
        # the limit applies, the child only imports installed modules.
        resource.prlimit(child.pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.prlimit(child.pid, resource.RLIMIT_CORE, (0, 0))
        try:
            status = child.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            return Verdict(
                "verification_timeout", f"Verification took longer than {TIMEOUT_SECONDS:g} seconds."
            )
        finally:
            child.kill()
    if status != 0:
        return _verdict_of_crash(status, (out / "log").read_text(errors="replace"))
    return _read_verdict(out)


def _verdict_of_crash(status: int, said: str) -> Verdict:
    """Why a child ended without a verdict; its output goes to the log only."""
    _log.warning("verification_crashed", status=status, said=said[-2000:])
    # How a failed allocation shows depends on who made it: Python, torch or the dynamic loader.
    if any(
        sign in said for sign in ("MemoryError", "bad_alloc", "can't allocate memory", "not enough memory")
    ):
        gibibytes = MEMORY_BYTES / 2**30
        return Verdict("verification_memory", f"Verification needed more than {gibibytes:g} GiB of memory.")
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return Verdict("verification_crashed", f"The verification process ended {how} without a verdict.")


def _read_verdict(out: Path) -> Verdict:
    """The verdict that the child wrote, checked as far as it can be here."""
    try:
        verdict = json.loads((out / "verdict.json").read_bytes())
        if verdict["verified"] is not True:
            return Verdict(str(verdict["code"]), str(verdict["message"]))
        manifest = json.loads((out / "manifest.json").read_bytes())
        with (out / "scorer.safetensors").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest == verdict["sha256"] == manifest["sha256"]:
            raise ValueError("the hash differs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("verdict_unreadable", error=str(error))
        return Verdict("verification_crashed", "The verification process left no readable verdict.")
    return Verdict(None, sha256=digest)
