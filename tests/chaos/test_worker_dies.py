"""Workers that are killed, frozen, told to stop, or hang: the job ends all the same, once."""

import os
import signal
from collections import Counter

import psutil
import pytest
from sqlalchemy import func, select

from store import jobs
from store.billing import ledger
from store.tables.billing import UsageLine
from store.tables.jobs import Job, Result
from tests.chaos.conftest import TEXT, Service, child_of, wait_for
from tests.support.standin import CHUNK, right_answer

STEPS = -(-len(TEXT) // CHUNK)


def ledger_of(service: Service, job: Job) -> list[UsageLine]:
    with service.database.session() as session:
        return ledger.lines(session, service.tenant, job.id)


def assert_answered_once(service: Service, job: Job) -> Result:
    with service.database.session() as session:
        assert session.scalar(select(func.count()).select_from(Result).filter_by(job_id=job.id)) == 1
        result = jobs.result(session, service.tenant, job.id)
    assert result is not None
    assert result.complete
    assert [answer["text"] for answer in result.answers] == [right_answer(TEXT, "Who?")]
    return result


@pytest.mark.parametrize("victim", ["parent and child", "parent", "child"])
def test_kill_9_is_resumed_from_the_snapshot(service: Service, victim: str) -> None:
    first = service.worker("one")
    service.loops()
    job = service.submit()
    service.until_snapshot(job)
    child = child_of(first)
    if victim == "parent and child":
        os.killpg(first.pid, signal.SIGKILL)
    elif victim == "parent":
        first.kill()
    else:
        child.kill()
    if victim != "child":  # Celery itself replaces a child; a dead parent is the supervisor's to replace
        service.worker("two")
    done = service.until_ended(job)
    assert (done.state, done.error_code) == ("succeeded", None)
    assert_answered_once(service, job)
    lines = ledger_of(service, job)
    assert max(Counter((line.attempt, line.meter, line.seq) for line in lines).values()) == 1
    if victim == "parent":
        return  # its child may have lived long enough to finish: then there was no second attempt
    assert (done.attempt, done.attempts_lost) == (2, 1)
    assert {line.attempt for line in lines} == {1, 2}
    second = [line for line in lines if line.attempt == 2 and line.meter == "device_seconds.read"]
    assert len(second) == 1
    steps = round(float(second[0].quantity) / 0.05)
    assert 0 < steps < STEPS  # it did not read again what the snapshot holds


def test_zombie_is_refused_every_write(service: Service) -> None:
    first = service.worker("one")
    service.loops()
    job = service.submit()
    service.until_snapshot(job)
    os.killpg(first.pid, signal.SIGSTOP)
    service.worker("two")
    done = service.until_ended(job)
    assert (done.state, done.attempt) == ("succeeded", 2)
    result = assert_answered_once(service, job)
    lines = [(line.id, line.quantity) for line in ledger_of(service, job)]

    os.killpg(first.pid, signal.SIGCONT)
    log = service.folder / "one.log"
    wait_for("the zombie to notice", lambda: '"lease_lost"' in log.read_text())
    # It went on to look for other work, so it has made all the writes it would make.
    other = service.submit()
    service.until_ended(other)
    assert [(line.id, line.quantity) for line in ledger_of(service, job)] == lines
    after = assert_answered_once(service, job)
    assert (after.attempt, after.updated_at) == (2, result.updated_at)
    assert service.look(job).succeeded_at == done.succeeded_at
    assert '"job_ended"' not in "".join(line for line in log.read_text().splitlines() if job.id in line)


def test_told_to_stop_it_gives_its_job_back(service: Service) -> None:
    first = service.worker("one")
    service.loops()
    job = service.submit(max_attempts=1)
    service.until_snapshot(job)
    first.terminate()
    first.wait(60)
    given = service.look(job)
    assert (given.state, given.attempt, given.attempts_lost) == ("queued", 1, 0)
    service.worker("two")
    done = service.until_ended(job)
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert_answered_once(service, job)


def test_hanging_process_loses_the_job_and_is_replaced(service: Service) -> None:
    parent = service.worker("one", PALIMPSEST_STALL_READING_SECONDS="1")
    service.loops()
    bad = service.submit(prompts=["hang"], max_attempts=1)
    service.until(bad, "running", lambda seen: seen.state == "running")
    stuck = child_of(parent)
    ended = service.until_ended(bad)
    assert (ended.state, ended.error_code) == ("failed", "worker_lost")
    good = service.submit()
    assert service.until_ended(good).state == "succeeded"
    assert not psutil.pid_exists(stuck.pid) or stuck.status() == psutil.STATUS_ZOMBIE


def test_cancel_reaches_a_running_worker(service: Service) -> None:
    service.worker("one")
    service.loops()
    job = service.submit()
    service.until_snapshot(job)
    with service.database.session() as session:
        jobs.cancel(session, service.tenant, job.id)
    assert service.until_ended(job).state == "cancelled"
    wait_for("its snapshots to go", lambda: service.files.names("snapshots") == [])
