"""How late schedules fire: from the scheduled time to the run, its queued job, and its start on a worker.

`python -m benchmarks.schedules '{"count": 50}'` prints one line of JSON. It runs what `palimpsest up` starts,
with a second scheduler and an engine without a model. All schedules are due every minute. In the second phase
the second scheduler is killed while the runs of the first minute are being created.
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.bulk import STANDIN
from namm_runtime.machine import machine
from palimpsest.machine.supervisor import Service, running
from store import documents, schedules, tenants
from store.blobs import Blobs, connect
from store.database import Database
from store.jobs.admission import Ask, Owner
from store.schedules import NewSchedule, Template
from store.settings import Settings

TEXT = b"The ferry was late again, and nobody on the quay seemed to mind. "
ROOT = str(Path(__file__).parents[1])
MINUTE = timedelta(minutes=1)
GRACE = 45.0  # seconds after a phase's last scheduled time in which its runs may still start
STAGES = ("made", "queued", "begun")
LATENESS = """
SELECT extract(epoch FROM run.created_at - run.scheduled_for)::float AS made,
    extract(epoch FROM job.queued_at - run.scheduled_for)::float AS queued,
    extract(epoch FROM job.running_at - run.scheduled_for)::float AS begun
FROM schedule_runs AS run JOIN jobs AS job ON job.id = run.job_id
WHERE run.scheduled_for >= :first AND run.scheduled_for < :until AND job.running_at IS NOT NULL
"""
DOUBLED = """
SELECT count(*) FROM jobs WHERE metadata ? 'schedule_id' AND created_at >= :first AND created_at < :until
    AND NOT EXISTS (SELECT FROM schedule_runs WHERE job_id = jobs.id)
"""
RUNS = "SELECT count(*) FROM schedule_runs WHERE scheduled_for >= :first AND scheduled_for < :until"


def measure(count: int = 50, minutes: int = 5, minutes_alone: int = 3, owners: int = 5) -> list[Any]:
    """One row with both schedulers alive, one with the second one killed."""
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as place:
        data = Path(place) / "data"
        environment = {"PYTHONPATH": ROOT, **STANDIN}
        with running(data, environment=environment) as service, _second(service, environment) as second:
            database = Database(_url(service))
            _make(database, connect(Settings(data_dir=data)), count, owners)
            first = _next_minute()
            rows = [_phase(database, first, minutes, count)]
            first += minutes * MINUTE
            _wait_for_a_run(database, first)
            second.send_signal(signal.SIGKILL)
            rows.append(_phase(database, first, minutes_alone, count))
            database.close()
    about = {"schedules": count, "tenants": owners, "machine": machine()}
    return [
        {"phase": phase, **row, **about} for phase, row in zip(("two alive", "one killed"), rows, strict=True)
    ]


@contextmanager
def _second(service: Service, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A second scheduler, which no supervisor restarts."""
    urls = {"DATABASE_URL": _url(service), "PALIMPSEST_DATA_DIR": str(service.data)}
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.loops.scheduler"],
        env={**os.environ, **environment, **urls},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _url(service: Service) -> str:
    assert service.embedded is not None  # the benchmark configures no external server
    return service.embedded.database_url


def _make(database: Database, files: Blobs, count: int, owners: int) -> None:
    """Create a document per tenant, and the schedules, distributed over the tenants."""
    with database.session() as session:
        for number in range(owners):
            tenant = tenants.ensure(session, f"ten_{number}", f"bench-{number}")
            key = documents.new_document_id()
            with files.create(documents.blob_key_of(tenant, key)) as file:
                file.write(TEXT)
            documents.create(
                session, tenant, key, sha256="", size=len(TEXT), media_type="text/plain", filename=None
            )
            template = Template("job", Ask(questions=("Who was late?",), policy="window"), document_id=key)
            for turn in range(number, count, owners):
                new = NewSchedule(f"every-minute-{turn}", "* * * * *", template)
                schedules.create(session, Settings(), Owner(tenant, None, "default"), new)


def _next_minute() -> datetime:
    """The next whole minute: each schedule's first scheduled time, or its second."""
    return datetime.now(UTC).replace(second=0, microsecond=0) + MINUTE


def _wait_for_a_run(database: Database, moment: datetime) -> None:
    """Wait until a run for this time has been created."""
    while not _count(database, RUNS, moment, moment + MINUTE):
        time.sleep(0.02)


def _phase(database: Database, first: datetime, minutes: int, count: int) -> dict[str, Any]:
    """Wait for all scheduled times from `first` on, and measure their runs."""
    last = first + (minutes - 1) * MINUTE
    time.sleep(max(0.0, (last - datetime.now(UTC)).total_seconds() + GRACE))
    until = last + MINUTE
    with database.session() as session:
        rows = session.execute(text(LATENESS), {"first": first, "until": until}).mappings().all()
    expected = minutes * count
    return {
        "minutes": minutes,
        "expected": expected,
        "runs": len(rows),
        "doubled": _count(database, DOUBLED, first, until),
        "missed": expected - len(rows),
        **{stage: _spread([row[stage] for row in rows]) for stage in STAGES},
    }


def _count(database: Database, query: str, first: datetime, until: datetime) -> int:
    with database.session() as session:
        return int(session.scalar(text(query), {"first": first, "until": until}) or 0)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Statistics of the delays."""
    ordered = sorted(seconds)
    return {
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 2),
        "longest": round(ordered[-1], 2),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
