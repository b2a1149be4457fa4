"""What the task `verify` does: uploaded scorers are looked at in a process of their own, one after another.

Whatever a file does to that process (a crash, an endless loop, all memory) is a verdict about the file.
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

SECONDS = 120.0
MEMORY_BYTES = 8 << 30  # of addresses: torch alone takes some
LEASE_SECONDS = 600.0  # after it, a worker that has said nothing counts as dead; longer than all below
PUT_OFF_SECONDS = 30.0  # by a blob store that fails
FILES = ("scorer.safetensors", "manifest.json")
CHILD = "namm_runtime.verify"
# All that the child sees of the environment: no URL of a database, no secret.
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
_log = log.get("worker.scorers.verification")


class Verdict(NamedTuple):
    """Of an upload: a code and a sentence if it is rejected, else the hash of the tensors."""

    code: str | None
    reason: str = ""
    sha256: str = ""


class StorageAway(Exception):
    """The blob store failed, which says nothing about what was uploaded."""


def folder_of(row: ScorerVersion) -> str:
    """Where the blobs of a verified version lie."""
    return f"scorers/{row.name}/{row.version}"


def verify_uploads(process: WorkerProcess) -> int:
    """Verifies until nothing is left or the worker is told to stop; gives how many verdicts it reached."""
    verdicts = 0
    while not process.is_stopping():
        row = process.transaction(lambda session: registry.next_to_verify(session, LEASE_SECONDS))
        if row is None:
            break
        try:
            verdicts += _verify(process, row)
        except StorageAway as error:
            _put_off(process, row, str(error))
    return verdicts


def _put_off(process: WorkerProcess, row: ScorerVersion, reason: str) -> None:
    process.transaction(lambda session: registry.postpone(session, row, reason, PUT_OFF_SECONDS))


@contextmanager
def _storage(doing: str) -> Iterator[None]:
    """Raises StorageAway for whatever a blob store may raise, but for a blob that is gone."""
    try:
        yield
    except NotFound:
        raise
    except Exception as error:
        _log.warning("storage_away", doing=doing, error=str(error))
        # The error's own words may name the machine's folders.
        said = f"storage_unavailable: The blob store failed ({type(error).__name__}) when {doing}. "
        raise StorageAway(said + "It is tried again.") from error


def _verify(process: WorkerProcess, row: ScorerVersion) -> bool:
    """Raises StorageAway."""
    with tempfile.TemporaryDirectory(prefix="palimpsest-verify-") as name:
        folder, out = Path(name, "in"), Path(name, "out")
        for place in (folder, out):
            place.mkdir()
        try:
            with _storage("what was uploaded was read"):
                _fetch(process.blobs, row.upload_key, folder)
        except NotFound:
            verdict = Verdict("upload_missing", "What was uploaded is no longer in the blob store.")
        else:
            verdict = judge(folder, out, row.name, row.version)
        manifest: dict[str, Any] = {}
        if verdict.code is None:
            manifest = json.loads((out / "manifest.json").read_bytes())
            with _storage("what was verified was written"):
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
        _log.warning("verdict_late", scorer=registry.label(row), error=str(error))  # another worker's stands
        return False
    _log.info("verdict", scorer=registry.label(row), code=verdict.code, reason=verdict.reason)
    with suppress(StorageAway), _storage("what was uploaded was removed"):  # else the reaper does
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


def judge(folder: Path, out: Path, name: str, version: str) -> Verdict:
    """The verdict of a child process on the files in `folder`; `out` has what may serve."""
    command = [sys.executable, "-P", "-m", CHILD, str(folder), str(out)]
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
        # From outside and not in the child before it starts: this process has threads, so nothing of Python's
        # may run between fork and exec. The first seconds without a limit only import what is installed.
        resource.prlimit(child.pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.prlimit(child.pid, resource.RLIMIT_CORE, (0, 0))
        try:
            status = child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            return Verdict("verification_timeout", f"Verification took longer than {SECONDS:g} seconds.")
        finally:
            child.kill()
    if status != 0:
        return _death(status, (out / "log").read_text(errors="replace"))
    return _read(out)


def _death(status: int, said: str) -> Verdict:
    """Why a child ended without a verdict; its own words are for the log only."""
    _log.warning("verification_died", status=status, said=said[-2000:])
    # What a lack of addresses looks like depends on who asked for them: Python, torch or a library's loader.
    if any(
        sign in said for sign in ("MemoryError", "bad_alloc", "can't allocate memory", "not enough memory")
    ):
        gibibytes = MEMORY_BYTES / 2**30
        return Verdict("verification_memory", f"Verification needed more than {gibibytes:g} GiB of memory.")
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return Verdict("verification_crashed", f"The process that verified it ended {how}, without a verdict.")


def _read(out: Path) -> Verdict:
    """What the child wrote, believed only as far as it can be checked here."""
    try:
        verdict = json.loads((out / "verdict.json").read_bytes())
        if verdict["verified"] is not True:
            return Verdict(str(verdict["code"]), str(verdict["message"]))
        manifest = json.loads((out / "manifest.json").read_bytes())
        with (out / "scorer.safetensors").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest == verdict["sha256"] == manifest["sha256"]:
            raise ValueError("the hash is another one")
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("verdict_unreadable", error=str(error))
        return Verdict("verification_crashed", "The process that verified it left no readable verdict.")
    return Verdict(None, sha256=digest)
