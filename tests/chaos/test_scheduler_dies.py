"""Schedulers are killed while they begin runs: each time is run once, whoever is left."""

import signal

from sqlalchemy import text

from store import documents
from tests.chaos.conftest import Service, wait_for
from tests.support.schedules import Schedules

SCHEDULES = 60
HASTY = {"PALIMPSEST_SCHEDULER_SECONDS": "0.05"}


def test_killed_schedulers_lose_and_double_nothing(service: Service) -> None:
    with service.database.session() as session:
        key = documents.new_document_id()
        documents.create(
            session, service.tenant, key, sha256="", size=1, media_type="text/plain", filename=None
        )
    made = Schedules(service.database, service.tenant, key)
    made.register()
    ids = [made.make() for _ in range(SCHEDULES)]
    started = [service.start(f"scheduler{n}", "worker.loops.scheduler", **HASTY) for n in range(3)]
    with service.database.session() as session:
        session.execute(text("UPDATE schedules SET next_at = now()"))
    for scheduler in started[:2]:
        before = len(made.jobs())
        wait_for("a run of one that lives", lambda before=before: len(made.jobs()) > before)
        scheduler.send_signal(signal.SIGKILL)
    service.start("scheduler3", "worker.loops.scheduler", **HASTY)
    wait_for("all runs", lambda: len(made.jobs()) >= SCHEDULES)
    started[2].terminate()
    assert started[2].wait() in (0, None)
    assert [made.states(one) for one in ids] == [["running"]] * SCHEDULES
    begun = {made.runs(one)[0].job_id for one in ids}
    assert begun == {job.id for job in made.jobs()}
    assert len(begun) == SCHEDULES
