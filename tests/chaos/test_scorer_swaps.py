"""Hundreds of jobs through twenty swaps of the scorer, some to broken files: each ran with what served."""

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import func, select

from store import blobs, documents, jobs, tenants, workers
from store.database import Database
from store.settings import Settings
from store.tables.job_states import TERMINAL
from store.tables.jobs import Attempt, Job, Result
from tests.support.depth import deep
from tests.support.registry import DAMAGES, activate, add_standin
from tests.support.standin import right_answer
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs

JOBS, SWAPS = deep(400, 2000), 20
SLOTS = (1, 2, 3)  # of each worker
TEXT = b"Once upon a time."
BROKEN = {6: "gone", 12: "replaced", 17: "without manifest"}  # swaps to a version that nobody can load


@pytest.fixture
def processes(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[WorkerProcess]]:
    monkeypatch.setenv("PALIMPSEST_STANDIN_SECONDS", "0")
    base = Settings.model_validate(
        {"DATABASE_URL": database_url, "data_dir": tmp_path, "engine": "tests.support.standin:load"}
        | {"model_name": "small", "progress_seconds": 0.2, "snapshot_chunks": 1000}
    )
    made = []
    for slots in SLOTS:
        config = base.model_copy(update={"slots": slots, "scratch_dir": tmp_path / f"scratch-{slots}"})
        database = Database(config.database)
        with database.session() as session:
            workers.register(session, f"wrk_{slots}", "here", "cpu")
        made.append(WorkerProcess(config, database, f"wrk_{slots}"))
    yield made
    for process in made:
        process.database.close()


def submit(database: Database, files: blobs.Blobs) -> None:
    with database.session() as session:
        tenant, key = tenants.ensure(session), documents.new_document_id()
        with files.create(documents.blob_key_of(tenant, key)) as file:
            file.write(TEXT)
        documents.create(
            session, tenant, key, sha256="", size=len(TEXT), media_type="text/plain", filename=None
        )
        for _ in range(JOBS):
            jobs.create(session, tenant, jobs.NewJob(key, "ask", ["Who?"], "small", "namm"))


def ended(database: Database) -> int:
    with database.session() as session:
        return session.scalar(select(func.count()).select_from(Job).where(Job.state.in_(TERMINAL))) or 0


def now(database: Database) -> datetime:
    with database.session() as session:
        return session.scalars(select(func.clock_timestamp())).one()


def swap(database: Database, files: blobs.Blobs, number: int) -> tuple[datetime, datetime]:
    """Makes the version of that number serve → a time before it did, and one after."""
    row = add_standin(database, files, str(number))
    if number in BROKEN:
        DAMAGES[BROKEN[number]](files, row)
    before = now(database)
    activate(database, row)
    return before, now(database)


@pytest.mark.deep
def test_every_job_ran_with_a_version_that_served(processes: list[WorkerProcess]) -> None:
    files = processes[0].blobs
    database = Database(processes[0].config.database)
    submit(database, files)
    times = [swap(database, files, 0)]
    threads = [threading.Thread(target=run_jobs, args=[process], daemon=True) for process in processes]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 500
    while len(times) <= SWAPS:
        assert time.monotonic() < until, "the jobs did not end"
        if ended(database) >= len(times) * JOBS // (SWAPS + 1):
            times.append(swap(database, files, len(times)))
        time.sleep(0.02)
    for thread in threads:
        thread.join()

    # A broken version never serves: until the next swap the one before it does.
    serving = [number for number in range(SWAPS + 1) if number not in BROKEN]
    begins = {number: times[number][0] for number in serving}
    ends = {number: times[after][1] for number, after in pairwise(serving)}
    seen: dict[int, int] = dict.fromkeys(serving, 0)
    query = select(Job, Attempt, Result).join(Attempt).join(Result, Result.job_id == Job.id)
    with database.session() as session:
        rows = session.execute(query).all()
    database.close()
    assert len(rows) == JOBS
    for job, attempt, result in rows:
        assert job.state == "succeeded"
        assert job.scorer == attempt.scorer
        [answer] = result.answers
        assert answer["text"] == f"{right_answer(TEXT, 'Who?')} {job.scorer}", "numbers of another"
        number = int(job.scorer.partition("@")[2])
        assert number in serving, "a broken version"
        seen[number] += 1
        assert begins[number] <= attempt.ended_at, "a version from the future"
        assert number not in ends or attempt.started_at <= ends[number], "a version that served no more"
    assert all(seen[number] for number in serving), f"too few jobs in between to show anything: {seen}"
    assert len({attempt.worker for _, attempt, _ in rows}) == len(SLOTS)
