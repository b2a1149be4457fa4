"""Conductors that are killed at any point, run beside each other or meet a broken bulk job."""

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store import bulk
from store.tables.jobs import Job
from tests.support.conductor_bench import PROMPTS, Bench
from tests.support.standin import right_answer
from worker.bulk import bundle
from worker.bulk.conductor import Conductor
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs


def test_cancelling_keeps_what_was_done(bench: Bench) -> None:
    config = bench.config.model_copy(update={"bulk_window": 2})
    bench.conductor = Conductor(config, bench.db, bench.files, bench.conductor._sources)
    bulk_id = bench.begin()
    for _ in range(3):
        bench.conductor.round()
    run_jobs(bench.process)
    bench.conductor.round()
    with bench.db.session() as session:
        assert bulk.cancel(session, bench.owner.tenant_id, bulk_id).state == "cancelling"
    found = bench.run(bulk_id)
    states = [line["state"] for line in bench.lines(found)]
    assert (found.state, states) == ("cancelled", ["succeeded"] * 2 + ["cancelled"] * 3)
    assert "There is no summary of all documents" in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session:
        bulk.cancel(session, bench.owner.tenant_id, bulk_id)
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    again = bench.run(bulk_id)
    assert (again.state, bench.counts(bulk_id)) == ("succeeded", {"succeeded": 5})


def test_a_statement_that_the_database_refuses_stops_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = bench.begin(digest=False), bench.begin(digest=False)
    plain = Conductor.step

    def step(self: Conductor, bulk_id: str) -> bool:
        if bulk_id == broken:
            raise OperationalError("SELECT", {}, Exception("too many parameters"))
        return plain(self, bulk_id)

    monkeypatch.setattr(Conductor, "step", step)
    assert bench.run(whole).state == "succeeded"

    def gone() -> None:
        raise OperationalError("SELECT 1", {}, Exception("no connection"))

    monkeypatch.setattr(bench.db, "ping", gone)
    with pytest.raises(OperationalError):
        bench.conductor.round()


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it runs, the open transaction is lost."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Lets the conductor die at its n-th commit, before or after it."""

    def arm(at: int) -> None:
        plain, left = Session.commit, [at]

        def commit(self: Session) -> None:
            left[0] -= 1
            if left[0] == 0:
                if at % 2:
                    plain(self)
                raise Killed
            plain(self)

        monkeypatch.setattr(Session, "commit", commit)

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("at", range(1, 41, 3))
def test_a_kill_at_any_point_changes_nothing_in_the_bundle(
    bench: Bench, kill_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    (bench.folder / "bad.txt").write_bytes(b"\xff\xfe")
    bulk_id = bench.begin()
    kill_at(at)
    try:
        for _ in range(30):
            bench.conductor.round()
            run_jobs(bench.process)
    except Killed:
        monkeypatch.undo()
        bench.process = WorkerProcess(bench.config, bench.db, "wrk_test")
    found = bench.run(bulk_id)
    lines = bench.lines(found)
    assert [line["path"] for line in lines] == [
        "0/0.txt",
        "0/2.txt",
        "0/4.txt",
        "1/1.txt",
        "1/3.txt",
        "bad.txt",
    ]
    assert [line["state"] for line in lines] == ["succeeded"] * 5 + ["failed"]
    for line in lines[:5]:
        text = (bench.folder / line["path"]).read_bytes()
        assert line["summary"] == [right_answer(text, PROMPTS[0])]
    with bench.db.session() as session:
        made = session.scalar(select(func.count()).select_from(Job).where(Job.bulk_id == bulk_id))
    assert made == 6  # five documents and the digest: nothing was done twice


def test_two_conductors_at_once_do_nothing_twice(bench: Bench) -> None:
    other = Conductor(bench.config, bench.db, bench.files, bench.conductor._sources)
    bulk_id = bench.begin()
    threads = [
        threading.Thread(target=lambda one=one: [one.round() for _ in range(20)])
        for one in (bench.conductor, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = bench.run(bulk_id)
    with bench.db.session() as session:
        made = session.scalar(select(func.count()).select_from(Job).where(Job.bulk_id == bulk_id))
    assert (found.state, made) == ("succeeded", 6)
