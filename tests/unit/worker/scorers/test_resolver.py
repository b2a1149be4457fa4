"""What a job runs with: the version that serves, the one it asks for, the one before a broken one."""

import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from sqlalchemy import select, text

from store import audit, jobs, workers
from store.database import Database
from store.scorers import activations, rollout
from store.scorers.rollout import LOAD_FAILED
from store.scorers.serving import Alias
from store.tables.jobs import Job
from store.tables.outbox import OutboxRow
from store.tables.scorers import ScorerVersion
from tests.support.registry import DAMAGES, activate, add_standin
from tests.support.standin import Engine, save_scorer
from tests.unit.worker.conftest import Clock
from worker.engine.process import WorkerProcess
from worker.engine.runtime import _quality
from worker.jobs.claim_loop import run_jobs
from worker.scorers.resolver import prefetch

Submit = Callable[..., Job]


@pytest.fixture(autouse=True)
def clock(process: WorkerProcess) -> Clock:
    """The shelf's: it stands still unless a test moves it."""
    process.scorer_cache._clock = Clock()
    return process.scorer_cache._clock


@pytest.fixture
def run(process: WorkerProcess, db: Database, submit: Submit) -> Callable[..., tuple[Job, str]]:
    """Submits a job with the policy namm, works it off and gives it with its answer."""

    def act(**changes: object) -> tuple[Job, str]:
        job = submit(policy="namm", **changes)
        run_jobs(process)
        with db.session() as session:
            result = jobs.result(session, job.tenant_id, job.id)
            done = jobs.get(session, job.tenant_id, job.id)
        return done, result.answers[0]["text"].partition(" ")[2] if result else ""

    return act


def add(process: WorkerProcess, version: str, damage: str | None = None) -> ScorerVersion:
    row = add_standin(process.database, process.blobs, version)
    if damage is not None:
        DAMAGES[damage](process.blobs, row)
    return row


def failures(db: Database) -> tuple[int, int]:
    """Events and audit entries about versions that could not be loaded."""
    with db.session() as session:
        events = session.scalars(select(OutboxRow.payload).where(OutboxRow.kind == "event")).all()
        noted = [entry for entry in audit.entries(session) if entry.action == LOAD_FAILED]
    return sum(event["type"] == LOAD_FAILED for event in events), len(noted)


def test_each_job_runs_with_what_serves_when_it_is_claimed(process, db, run) -> None:
    assert (run()[0].scorer, run()[1]) == ("namm@1", ""), "the bundled one"
    for version in "234":
        row = add(process, version)
        activate(db, row)
        done, told = run()
        assert (done.scorer, done.scorer_sha256, told) == (f"namm@{version}", row.sha256, f"namm@{version}")
        with db.session() as session:
            [attempt] = jobs.attempts(session, done.tenant_id, done.id)
        assert (attempt.scorer, attempt.scorer_sha256) == (done.scorer, done.scorer_sha256)


def test_a_named_version_runs_whatever_serves(process, db, run) -> None:
    add(process, "2")
    activate(db, add(process, "3"))
    assert run(scorer_requested="namm@2")[1] == "namm@2"
    assert run(scorer_requested="namm")[1] == "namm@3"


@pytest.mark.parametrize("damage", DAMAGES)
def test_instead_of_a_broken_version_the_one_before_serves(process, db, run, damage) -> None:
    activate(db, add(process, "2"))
    activate(db, add(process, "3", damage))
    assert [run()[1] for _ in range(3)] == ["namm@2"] * 3
    assert failures(db) == (1, 1), "told once, not for every job"
    with db.session() as session:
        [state] = [found.workers[0] for found in rollout.rollout(session, 60)]
    assert (state.scorer, bool(state.error)) == ("namm@2", True)


def test_without_any_that_can_be_loaded_the_bundled_one_serves(process, db, run) -> None:
    for version in "23":
        activate(db, add(process, version, "gone"))
    done, told = run()
    assert (done.state, done.scorer, told) == ("succeeded", "namm@1", "")


def test_a_repaired_version_serves_once_its_pause_is_over(process, db, run, clock) -> None:
    activate(db, add(process, "2"))
    row = add(process, "3", "gone")
    activate(db, row)
    assert run()[1] == "namm@2"
    save_scorer(process.blobs, str(row.blob_key), "namm@3")
    clock.now += 1
    assert run()[1] == "namm@3"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_job_that_names_a_broken_version_fails(process, db, run, damage) -> None:
    activate(db, add(process, "2"))
    add(process, "3", damage)
    done, told = run(scorer_requested="namm@3")
    assert (done.state, done.error_code, told) == ("failed", "scorer_unreadable", "")
    assert str(process.config.data_dir) not in done.error_message


def test_a_version_that_is_not_verified_or_not_there_is_refused(process, db, run) -> None:
    row = add(process, "2")
    with db.session() as session:
        session.execute(text("UPDATE scorer_versions SET state = 'rejected' WHERE id = :id"), {"id": row.id})
    assert run(scorer_requested="namm@2")[0].error_code == "scorer_not_verified"
    assert run(scorer_requested="nobody@7")[0].error_code == "unknown_scorer"


def test_a_job_claimed_again_goes_on_with_its_version_from_its_snapshot(
    process, db, submit, monkeypatch
) -> None:
    activate(db, add(process, "2"))
    job = submit(policy="namm")
    step, count, used = Engine.step, [0], []

    def few(self: Engine) -> list[object]:
        count[0] += 1
        if count[0] == 10:
            with db.session() as session:
                workers.request_stop(session, "wrk_test")
        return step(self)  # type: ignore[return-value]

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", few)
        run_jobs(process)
    with db.session() as session:
        given = jobs.get(session, job.tenant_id, job.id)
        session.execute(text("UPDATE workers SET stopping_at = NULL"))
    assert (given.state, given.scorer) == ("queued", "namm@2")
    activate(db, add(process, "3"))
    admit = Engine.admit

    def note(self: Engine, request: object, snapshot: object) -> object:
        used.append(snapshot)
        return admit(self, request, snapshot)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "admit", note)
    run_jobs(process)
    with db.session() as session:
        done = jobs.get(session, job.tenant_id, job.id)
        result = jobs.result(session, job.tenant_id, job.id)
    assert (done.state, done.scorer) == ("succeeded", "namm@2")
    assert result is not None
    assert result.answers[0]["text"].endswith(" namm@2")
    assert used[0] is not None


def pin(db: Database, job: Job, label: str, sha256: str | None) -> None:
    """As an attempt before left it."""
    change = text("UPDATE jobs SET scorer = :label, scorer_sha256 = :sha WHERE id = :id")
    with db.session() as session:
        session.execute(change, {"label": label, "sha": sha256, "id": job.id})


def rest(db: Database, seconds: int = 0) -> None:
    """The pause after a refusal has been over for so long."""
    with db.session() as session:
        session.execute(text(f"UPDATE jobs SET claimable_at = now() - interval '{seconds} s'"))


def look(db: Database, job: Job) -> Job:
    with db.session() as session:
        return jobs.get(session, job.tenant_id, job.id)


@pytest.fixture
def elsewhere(config, db, tmp_path) -> WorkerProcess:
    """A worker on another machine, that has loaded nothing."""
    with db.session() as session:
        workers.register(session, "wrk_else", "there", "cpu")
    return WorkerProcess(config.model_copy(update={"scratch_dir": tmp_path / "else"}), db, "wrk_else")


def test_a_pinned_job_is_left_to_a_worker_that_can_load_its_version(
    process, db, run, submit, elsewhere
) -> None:
    row = add(process, "2")
    activate(db, row)
    assert run()[1] == "namm@2"
    activate(db, add(process, "3"))
    DAMAGES["gone"](process.blobs, row)
    job = submit(policy="namm")
    pin(db, job, "namm@2", row.sha256)
    assert run_jobs(elsewhere) == 1
    refused = look(db, job)
    assert (refused.state, refused.scorer, refused.attempts_lost) == ("queued", "namm@2", 0)
    assert run_jobs(process) == 0, "it rests"
    rest(db)
    assert run_jobs(elsewhere) == 0, "for longer where it was refused"
    assert run_jobs(process) == 1
    done = look(db, job)
    assert (done.state, done.scorer, done.scorer_sha256) == ("succeeded", "namm@2", row.sha256)
    assert (done.refusals, done.refused_by, done.claimable_at) == (0, None, None)


def test_a_pinned_job_that_nobody_can_go_on_with_fails_and_says_why(process, db, submit) -> None:
    activate(db, add(process, "3"))
    row = add(process, "2", "gone")
    job = submit(policy="namm", max_attempts=2)
    pin(db, job, "namm@2", row.sha256)
    assert run_jobs(process) == 1
    assert look(db, job).state == "queued"
    rest(db, seconds=3600)
    assert run_jobs(process) == 1
    done = look(db, job)
    assert (done.state, done.error_code) == ("failed", "scorer_unreadable")
    assert "namm@2" in done.error_message


def test_a_pinned_job_never_runs_with_another_file_of_the_same_name(process, db, run, submit) -> None:
    own = run()[0]
    job = submit(policy="namm")
    pin(db, job, own.scorer, own.scorer_sha256)
    activate(db, add(process, "1"))
    assert run()[1] == "namm@1", "the registry's"
    done = look(db, job)
    assert (done.state, done.scorer_sha256) == ("succeeded", own.scorer_sha256)
    with db.session() as session:
        result = jobs.result(session, job.tenant_id, job.id)
    assert "namm@1" not in result.answers[0]["text"], "the runtime's own, as before"
    replaced = submit(policy="namm")
    pin(db, replaced, "namm@1", "of a runtime before")
    run_jobs(process)
    assert look(db, replaced).state == "queued"


def test_what_serves_is_loaded_before_a_job_comes(process, db, run) -> None:
    activate(db, add(process, "2"))
    activate(db, add(process, "3"), "model:other")
    activate(db, add(process, "4", "gone"), "tenant:ten_x")
    process.serve()
    prefetch(process, process.serve())
    process.blobs.delete_folder("scorers")
    assert run()[1] == "namm@2"
    with db.session() as session:
        found = {one.activation.scope: one for one in rollout.rollout(session, 60)}
    assert {scope: (one.ready, len(one.workers)) for scope, one in found.items()} == {
        "global": (1, 1),
        "model:other": (0, 0),
        "tenant:ten_x": (0, 1),
    }
    assert found["global"].workers[0].age_seconds >= 0


def test_a_broken_canary_leaves_its_jobs_to_the_stable_one(process, db, run) -> None:
    activate(db, add(process, "2"))
    activate(db, add(process, "3", "gone"), alias=Alias.CANARY, percent=100)
    assert run()[1] == "namm@2"
    with db.session() as session:
        activations.end(session, "namm", "global", Alias.STABLE, "k", reason="x")
    assert run()[0].scorer == "namm@1", "no stable one: the bundled"


def test_a_version_that_was_rolled_back_is_no_fallback(process, db, run) -> None:
    first, bad = add(process, "2"), add(process, "3")
    activate(db, first)
    activate(db, bad)
    assert run()[1] == "namm@3"
    with db.session() as session:
        activations.rollback(session, "namm", "global", "key_1", reason="wrong answers")
    DAMAGES["gone"](process.blobs, first)
    assert run()[1] == "", "the bundled one, and not the one that gave wrong answers"


@pytest.mark.parametrize(
    ("said", "known"),
    [(0.9, Decimal("0.9"))] + [(odd, None) for odd in (100, float("nan"), "x", None, True, [])],
)
def test_only_a_share_is_taken_for_a_scorers_quality(tmp_path, said, known) -> None:
    provenance = {"validation": {"deployed": {"fitness": said}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"provenance": provenance}))
    assert _quality(tmp_path) == known
    for odd in ({"provenance": None}, {"provenance": {"validation": []}}, {}):
        (tmp_path / "manifest.json").write_text(json.dumps(odd))
        assert _quality(tmp_path) is None
