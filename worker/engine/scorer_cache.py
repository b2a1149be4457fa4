"""The versions of scorers from the registry that a worker has at hand: fetched, checked and loaded once.

Which of them a job runs with is `worker.scorers.resolver`.
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

MOST = 8  # versions kept, if unused for long: in memory, and as many again on disk
UNUSED_SECONDS = 600.0
UNUSED_ON_DISK_SECONDS = 24 * 3600.0
LONGEST_PAUSE = 300.0  # seconds between two tries to load a version
SAY_SECONDS = 60.0  # how often a version's use is reported
STALE_SECONDS = 3600.0  # a half-fetched folder of this age is nobody's
FILES = ("scorer.safetensors", "manifest.json")

Read = Callable[[Path], ScorerPin]


class Unreadable(Exception):
    """A version could not be loaded. `new` is true when it was just tried, false while it rests."""

    def __init__(self, message: str, *, new: bool) -> None:
        super().__init__(message)
        self.new = new


@dataclass
class _Loaded:
    pin: ScorerPin
    used_at: float  # monotonic, as are the others
    said_at: float


@dataclass
class _Failed:
    error: str
    pause: float
    retry_at: float


class Shelf:
    """Loads versions and keeps them. One that cannot be loaded is tried again after a growing pause.

    What it keeps on disk lies in one folder a version, named by its sha256 and id, and may be shared by the
    workers of a machine. Everything it does is told to the table of `store.scorers.rollout`.
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
        self._loaded: dict[str, _Loaded] = {}  # by the id of the version
        self._failed: dict[str, _Failed] = {}
        self._began = False

    def take(self, version: ScorerVersion, read: Read, *, insist: bool = False) -> ScorerPin:
        """The version, loaded now unless it is there already. `insist` tries even while it rests.

        Raises Unreadable.
        """
        now = self._clock()
        found = self._loaded.get(version.id)
        if found is not None:
            found.used_at = now
            if now - found.said_at >= SAY_SECONDS:
                found.said_at = now
                self._say(version, None)
                with suppress(OSError):
                    os.utime(found.pin.path)  # for `_clear_disk`, perhaps another worker's
            return found.pin
        failed = self._failed.get(version.id)
        if failed is not None and now < failed.retry_at and not insist:
            raise Unreadable(failed.error, new=False)
        try:
            pin = self._load(version, read)
        except Exception as error:  # whatever a blob store or a broken file may raise: no job is to meet it
            self._failed[version.id] = self._rest(failed, f"{type(error).__name__}: {error}", now)
            rested = failed is None or now >= failed.retry_at
            _log.warning("scorer_unreadable", scorer=registry.label(version), error=str(error))
            self._say(version, str(error))
            raise Unreadable(str(error), new=rested) from error
        self._failed.pop(version.id, None)
        self._loaded[version.id] = _Loaded(pin, now, now)
        _log.info("scorer_loaded", scorer=pin.label, sha256=pin.sha256)
        self._say(version, None)
        self._drop_unused(now)
        self._clear_disk()
        return pin

    def _rest(self, before: _Failed | None, error: str, now: float) -> _Failed:
        if before is not None and now < before.retry_at:  # a job insisted: the pause stays as it was
            return replace(before, error=error)
        pause = 1.0 if before is None else min(2 * before.pause, LONGEST_PAUSE)
        return _Failed(error, pause, now + pause)

    def _load(self, version: ScorerVersion, read: Read) -> ScorerPin:
        self._begin()
        if version.blob_key is None or version.sha256 is None:
            raise ValueError(f"{registry.label(version)} has no files")
        kept = self._folder / f"{version.sha256}-{version.id}"
        try:
            pin = self._checked(kept, version, read)
        except Exception:  # not there yet, or damaged since
            shutil.rmtree(kept, ignore_errors=True)
            self._fetch(version.blob_key, kept)
            try:
                pin = self._checked(kept, version, read)
            except Exception:
                shutil.rmtree(kept, ignore_errors=True)
                raise
        os.utime(kept)
        return replace(pin, name=version.name, version=version.version, sha256=version.sha256)

    def _checked(self, folder: Path, version: ScorerVersion, read: Read) -> ScorerPin:
        found = hashlib.sha256((folder / FILES[0]).read_bytes()).hexdigest()
        if found != version.sha256:
            raise ValueError(f"{FILES[0]} has the sha256 {found}, not {version.sha256}")
        return read(folder)

    def _fetch(self, key: str, target: Path) -> None:
        """Makes the folder whole or not at all; another worker of this machine may be quicker."""
        with atomic_directory(target) as folder:
            for name in FILES:
                with self._blobs.open(f"{key}/{name}") as source, (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)

    def _begin(self) -> None:
        """Before the first load: this process has nothing loaded, whatever one before it has said."""
        if self._began:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(LEFTOVERS):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        self._tell(lambda session: rollout.forget(session, self._worker_id))
        self._began = True

    def _drop_unused(self, now: float) -> None:
        """The ones longest unused go first, and none that was used lately."""
        oldest = sorted(self._loaded.items(), key=lambda item: item[1].used_at)
        for version_id, loaded in oldest[: max(0, len(oldest) - MOST)]:
            if now - loaded.used_at < UNUSED_SECONDS:
                return
            del self._loaded[version_id]
            shutil.rmtree(loaded.pin.path, ignore_errors=True)
            _log.info("scorer_dropped", scorer=loaded.pin.label)
            self._tell(
                lambda session, label=loaded.pin.label: rollout.forget(session, self._worker_id, label)
            )

    def _clear_disk(self) -> None:
        """Removes what workers of this machine that have ended left, but for what was used last."""
        mine = {loaded.pin.path for loaded in self._loaded.values()}
        others: list[tuple[float, Path]] = []
        for folder in self._folder.glob("[!.]*"):
            with suppress(OSError):  # another worker was quicker
                others.append((folder.stat().st_mtime, folder))
        others = sorted((entry for entry in others if entry[1] not in mine), reverse=True)
        for used_at, folder in others[MOST:]:
            if time.time() - used_at > UNUSED_ON_DISK_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
                _log.info("scorer_cleared", folder=folder.name)

    def _say(self, version: ScorerVersion, error: str | None) -> None:
        label = registry.label(version)
        self._tell(
            lambda session: rollout.report(session, self._worker_id, label, version.sha256, error=error)
        )

    def _tell(self, act: Callable[..., None]) -> None:
        """A report is worth no job: when it cannot be written, the next one will be."""
        try:
            with self._database.session() as session:
                act(session)
        except SQLAlchemyError as error:
            _log.warning("report_failed", error=str(error))
