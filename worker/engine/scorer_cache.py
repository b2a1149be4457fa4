"""A worker's cache of scorer versions from the registry: downloaded, checked and loaded once.

Which of them a job runs with is decided in `worker.scorers.resolver`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from store import log
from store.atomic_files import LEFTOVERS, atomic_directory
from store.blobs import Blobs
from store.database import Database
from store.scorers import registry, rollout
from store.tables.scorers import ScorerVersion
from worker.engine.interface import ScorerPin

_log = log.get("worker.engine.scorer_cache")

MAX_VERSIONS = 8  # in memory; on disk as many again. More are kept only while they are in use
UNUSED_SECONDS = 600.0
UNUSED_ON_DISK_SECONDS = 24 * 3600.0
MAX_BACKOFF_SECONDS = 300.0  # between two attempts to load a version
REPORT_SECONDS = 60.0  # how often the use of a version is reported
STALE_SECONDS = 3600.0  # an unfinished download of this age has been abandoned
FILES = ("scorer.safetensors", "manifest.json")

Read = Callable[[Path], ScorerPin]


class ScorerUnreadable(Exception):
    """A version could not be loaded.

    Attributes:
        new: False if this repeats a failure that is still in its backoff, so nothing new is to be recorded.
    """

    def __init__(self, message: str, *, new: bool) -> None:
        super().__init__(message)
        self.new = new


@dataclass
class _Loaded:
    pin: ScorerPin
    used_at: float  # monotonic, like the others
    reported_at: float


@dataclass
class _Failed:
    error: str
    backoff: float
    retry_at: float


class ScorerCache:
    """Loads versions and keeps them; retries one that cannot be loaded with exponential backoff.

    On disk each version has a folder, named by its sha256 and id, which the workers of a machine may share.
    What is loaded, and what cannot be, is reported to the table of `store.scorers.rollout`.
    """

    def __init__(
        self,
        folder: Path,
        blobs: Blobs,
        database: Database,
        worker_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._blobs = blobs
        self._database = database
        self._worker_id = worker_id
        self._clock = clock
        self._loaded: dict[str, _Loaded] = {}  # by the version's id
        self._failed: dict[str, _Failed] = {}
        self._prepared = False

    def get(self, version: ScorerVersion, read: Read, *, ignore_backoff: bool = False) -> ScorerPin:
        """The version, loaded now if it is not in memory. Raises ScorerUnreadable."""
        now = self._clock()
        found = self._loaded.get(version.id)
        if found is not None:
            found.used_at = now
            if now - found.reported_at >= REPORT_SECONDS:
                found.reported_at = now
                self._report(version, None)
                with suppress(OSError):
                    os.utime(found.pin.path)  # `_evict_from_disk` of every worker on the machine goes by it
            return found.pin
        failed = self._failed.get(version.id)
        if failed is not None and now < failed.retry_at and not ignore_backoff:
            raise ScorerUnreadable(failed.error, new=False)
        try:
            pin = self._load(version, read)
        except Exception as error:  # of any kind: a broken file or blob store must not end a job
            self._failed[version.id] = self._back_off(failed, f"{type(error).__name__}: {error}", now)
            _log.warning("scorer_unreadable", scorer=registry.label(version), error=str(error))
            self._report(version, str(error))
            new = failed is None or now >= failed.retry_at
            raise ScorerUnreadable(str(error), new=new) from error
        self._failed.pop(version.id, None)
        self._loaded[version.id] = _Loaded(pin, now, now)
        _log.info("scorer_loaded", scorer=pin.label, sha256=pin.sha256)
        self._report(version, None)
        self._evict_from_memory(now)
        self._evict_from_disk()
        return pin

    def _back_off(self, before: _Failed | None, error: str, now: float) -> _Failed:
        if before is not None and now < before.retry_at:  # the caller ignored the backoff, which goes on
            return replace(before, error=error)
        backoff = 1.0 if before is None else min(2 * before.backoff, MAX_BACKOFF_SECONDS)
        return _Failed(error, backoff, now + backoff)

    def _load(self, version: ScorerVersion, read: Read) -> ScorerPin:
        self._prepare()
        if version.blob_key is None or version.sha256 is None:
            raise ValueError(f"{registry.label(version)} has no files")
        folder = self._folder / f"{version.sha256}-{version.id}"
        try:
            pin = self._read_checked(folder, version, read)
        except Exception:  # not downloaded yet, or damaged since
            shutil.rmtree(folder, ignore_errors=True)
            self._download(version.blob_key, folder)
            try:
                pin = self._read_checked(folder, version, read)
            except Exception:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        os.utime(folder)
        return replace(pin, name=version.name, version=version.version, sha256=version.sha256)

    def _read_checked(self, folder: Path, version: ScorerVersion, read: Read) -> ScorerPin:
        found = hashlib.sha256((folder / FILES[0]).read_bytes()).hexdigest()
        if found != version.sha256:
            raise ValueError(f"{FILES[0]} has the sha256 {found}, not {version.sha256}")
        return read(folder)

    def _download(self, key: str, target: Path) -> None:
        """Creates the folder atomically; another worker of this machine may be faster."""
        with atomic_directory(target) as folder:
            for name in FILES:
                with self._blobs.open(f"{key}/{name}") as source, (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)

    def _prepare(self) -> None:
        """Before the first load: removes abandoned downloads and what a previous process reported as
        loaded."""
        if self._prepared:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in (*self._folder.glob(LEFTOVERS), *self._folder.glob(".fetch-*")):  # former name
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
        self._write(lambda session: rollout.forget(session, self._worker_id))
        self._prepared = True

    def _evict_from_memory(self, now: float) -> None:
        """Drops the least recently used versions above the limit, but none that was used recently."""
        oldest = sorted(self._loaded.items(), key=lambda item: item[1].used_at)
        for version_id, loaded in oldest[: max(0, len(oldest) - MAX_VERSIONS)]:
            if now - loaded.used_at < UNUSED_SECONDS:
                return
            del self._loaded[version_id]
            shutil.rmtree(loaded.pin.path, ignore_errors=True)
            _log.info("scorer_evicted", scorer=loaded.pin.label)
            self._write(
                lambda session, label=loaded.pin.label: rollout.forget(session, self._worker_id, label)
            )

    def _evict_from_disk(self) -> None:
        """Removes old folders of workers that have ended, keeping the most recently used ones."""
        mine = {loaded.pin.path for loaded in self._loaded.values()}
        others: list[tuple[float, Path]] = []
        for folder in self._folder.glob("[!.]*"):
            with suppress(OSError):  # removed by another worker in the meantime
                others.append((folder.stat().st_mtime, folder))
        others = sorted((entry for entry in others if entry[1] not in mine), reverse=True)
        for used_at, folder in others[MAX_VERSIONS:]:
            if time.time() - used_at > UNUSED_ON_DISK_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
                _log.info("scorer_folder_removed", folder=folder.name)

    def _report(self, version: ScorerVersion, error: str | None) -> None:
        label = registry.label(version)
        self._write(
            lambda session: rollout.report(session, self._worker_id, label, version.sha256, error=error)
        )

    def _write(self, act: Callable[..., None]) -> None:
        """Writes a report; if the database refuses, the job goes on and the next report corrects it."""
        try:
            with self._database.session() as session:
                act(session)
        except SQLAlchemyError as error:
            _log.warning("report_failed", error=str(error))
