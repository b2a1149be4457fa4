"""The cache of scorers: fetched once, checked, kept while used, tried again after a growing pause."""

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import select

from store import blobs, workers
from store.blobs import Blobs
from store.database import Database
from store.settings import Settings
from store.tables.scorers import WorkerScorer
from tests.support.registry import DAMAGES, add_standin
from tests.support.standin import read_scorer
from tests.unit.worker.conftest import Clock
from worker.engine import scorer_cache
from worker.engine.scorer_cache import ScorerCache, ScorerUnreadable


@pytest.fixture
def files(config: Settings) -> Blobs:
    return blobs.connect(config)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, files: Blobs, db: Database, clock: Clock) -> ScorerCache:
    with db.session() as session:
        workers.register(session, "wrk_test", "here", "cpu")
    return ScorerCache(tmp_path / "cache", files, db, "wrk_test", clock)


def told(db: Database) -> dict[str, WorkerScorer]:
    with db.session() as session:
        return {row.scorer: row for row in session.scalars(select(WorkerScorer))}


def test_a_version_is_fetched_once_and_known_by_the_registrys_name(
    cache: ScorerCache, db: Database, files: Blobs
) -> None:
    row = add_standin(db, files, "1")
    pin = cache.get(row, read_scorer)
    assert (pin.label, pin.sha256, pin.loaded) == ("namm@1", row.sha256, "namm@1")
    files.delete_folder(str(row.blob_key))
    assert cache.get(row, read_scorer) is pin, "it needs the blob store no more"
    assert told(db)["namm@1"].error is None


def test_the_next_process_finds_it_on_disk_and_says_so_anew(
    cache: ScorerCache, db: Database, files: Blobs, tmp_path: Path
) -> None:
    one, two = add_standin(db, files, "1"), add_standin(db, files, "2")
    cache.get(one, read_scorer)
    cache.get(two, read_scorer)
    files.delete_folder("scorers")
    after = ScorerCache(tmp_path / "cache", files, db, "wrk_test")
    assert after.get(two, read_scorer).loaded == "namm@2"
    assert set(told(db)) == {"namm@2"}, "what the process before had loaded is not loaded any more"


def test_a_file_damaged_on_disk_is_fetched_again(
    cache: ScorerCache, db: Database, files: Blobs, tmp_path: Path
) -> None:
    row = add_standin(db, files, "1")
    kept = cache.get(row, read_scorer).path / "scorer.safetensors"
    kept.write_text("something else")
    assert ScorerCache(tmp_path / "cache", files, db, "wrk_test").get(row, read_scorer).loaded == "namm@1"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{row.sha256}-{row.id}"]


def test_versions_of_the_same_numbers_are_kept_apart(cache: ScorerCache, db: Database, files: Blobs) -> None:
    one, two = add_standin(db, files, "1", "same"), add_standin(db, files, "2", "same")
    first, second = cache.get(one, read_scorer), cache.get(two, read_scorer)
    assert (first.label, second.label) == ("namm@1", "namm@2")
    assert first.path != second.path, "their manifests may differ"


@pytest.mark.parametrize("damage", [*DAMAGES, "unreadable"])
def test_a_broken_version_is_refused_and_nothing_of_it_stays(
    cache: ScorerCache, db: Database, files: Blobs, tmp_path: Path, damage: str
) -> None:
    row = add_standin(db, files, "1", "unreadable" if damage == "unreadable" else None)
    if damage in DAMAGES:
        DAMAGES[damage](files, row)
    with pytest.raises(ScorerUnreadable):
        cache.get(row, read_scorer)
    assert list((tmp_path / "cache").iterdir()) == []
    assert told(db)["namm@1"].error


def test_the_pause_between_tries_grows_and_ends_with_a_success(
    cache: ScorerCache, db: Database, files: Blobs, clock: Clock
) -> None:
    row = add_standin(db, files, "1")
    tried: list[float] = []

    def read(folder: Path) -> scorer_cache.ScorerPin:
        if not tried or tried[-1] != clock.now:
            tried.append(clock.now)
        raise ValueError("not yet")

    began = clock.now
    news = 0
    for _ in range(2000):
        with pytest.raises(ScorerUnreadable) as caught:
            cache.get(row, read)
        news += caught.value.new
        clock.now += 0.5
    pauses = [after - before for before, after in pairwise(tried)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert news == len(tried), "told once each time it was tried"
    assert tried[0] == began
    with pytest.raises(ScorerUnreadable) as caught:
        cache.get(row, read, ignore_backoff=True)
    assert not caught.value.new
    assert cache.get(row, read_scorer, ignore_backoff=True).label == "namm@1", (
        "a job that insists does not wait"
    )
    assert told(db)["namm@1"].error is None


def test_the_longest_unused_goes_and_none_that_was_used_lately(
    cache: ScorerCache, db: Database, files: Blobs, clock: Clock
) -> None:
    rows = [add_standin(db, files, str(number)) for number in range(scorer_cache.MAX_VERSIONS + 3)]
    for row in rows[:-1]:
        cache.get(row, read_scorer)
    assert len(told(db)) == scorer_cache.MAX_VERSIONS + 2, "all were used a moment ago"
    clock.now += scorer_cache.UNUSED_SECONDS
    first = cache.get(rows[0], read_scorer)
    cache.get(rows[-1], read_scorer)
    assert set(told(db)) == {"namm@0", *(f"namm@{n}" for n in range(4, scorer_cache.MAX_VERSIONS + 3))}
    assert first.path.exists()
    assert not (first.path.parent / f"{rows[1].sha256}-{rows[1].id}").exists()


def test_what_ended_workers_left_on_disk_is_bounded(
    cache: ScorerCache, db: Database, files: Blobs, tmp_path: Path, clock: Clock
) -> None:
    rows = [add_standin(db, files, str(number)) for number in range(scorer_cache.MAX_VERSIONS + 4)]
    folders = [cache.get(row, read_scorer).path for row in rows]
    day = scorer_cache.UNUSED_ON_DISK_SECONDS

    def age(folder: Path, days: float) -> None:
        moment = time.time() - days * day
        os.utime(folder, (moment, moment))

    for number, folder in enumerate(folders[:-1]):
        age(folder, 9 - number / 10)
    age(folders[1], 0.5)
    clock.now += scorer_cache.REPORT_SECONDS
    cache.get(rows[2], read_scorer)
    after = ScorerCache(tmp_path / "cache", files, db, "wrk_test")
    after.get(rows[-1], read_scorer)
    left = {folder for folder in folders if folder.exists()}
    assert left == {folders[-1], folders[1], folders[2], *folders[-scorer_cache.MAX_VERSIONS + 1 : -1]}, (
        "its own, those used since a day ago, and the latest of the others"
    )


def test_use_is_told_at_most_once_a_minute(
    cache: ScorerCache, db: Database, files: Blobs, clock: Clock
) -> None:
    row = add_standin(db, files, "1")
    cache.get(row, read_scorer)
    before = told(db)["namm@1"]
    clock.now += scorer_cache.REPORT_SECONDS - 1
    cache.get(row, read_scorer)
    assert told(db)["namm@1"].used_at == before.used_at
    clock.now += 1
    cache.get(row, read_scorer)
    after = told(db)["namm@1"]
    assert after.used_at > before.used_at
    assert after.loaded_at == before.loaded_at


def test_a_worker_that_is_not_known_serves_all_the_same(tmp_path: Path, files: Blobs, db: Database) -> None:
    row = add_standin(db, files, "1")
    assert ScorerCache(tmp_path / "cache", files, db, "wrk_gone").get(row, read_scorer).label == "namm@1"
    assert told(db) == {}
