"""The rollout of scorer versions: what each worker has loaded, compared with what should serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Text, case, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import audit, outbox
from store.scorers import activations, registry
from store.tables.jobs import Job
from store.tables.scorers import Activation, ScorerVersion, WorkerScorer
from store.tables.workers import Worker, WorkerModel

LOAD_FAILED = "scorer.load_failed"


@dataclass(frozen=True)
class WorkerState:
    """The version of a scorer that a live worker has loaded.

    `scorer` is the desired version if it is loaded, otherwise the last one used; None without any from the
    registry, when jobs run with the bundled one.
    """

    worker_id: str
    host: str
    scorer: str | None
    sha256: str | None
    loaded_at: datetime | None
    age_seconds: float | None  # since it was loaded
    error: str | None  # why loading the desired version failed


@dataclass(frozen=True)
class Rollout:
    """An open activation and the live workers that serve its scope; `ready` of them have the version."""

    activation: Activation
    desired: str
    workers: list[WorkerState]

    @property
    def ready(self) -> int:
        return sum(worker.scorer == self.desired for worker in self.workers)


def report(
    session: Session, worker_id: str, scorer: str, sha256: str | None, *, error: str | None = None
) -> None:
    """Records that a worker has loaded or used a version, or why loading it failed.

    A version loaded before keeps its load time. Does nothing for a worker that is not registered.
    """
    said = [literal(value, Text) for value in (worker_id, scorer, sha256, error)]
    known = select(*said).where(select(Worker.id).where(Worker.id == worker_id).exists())
    statement = insert(WorkerScorer).from_select(["worker_id", "scorer", "sha256", "error"], known)
    new = statement.excluded
    fresh = {
        "sha256": new.sha256,
        "error": new.error,
        "used_at": func.now(),
        # An earlier failure was not a load.
        "loaded_at": case((WorkerScorer.error.is_(None), WorkerScorer.loaded_at), else_=func.now()),
    }
    session.execute(statement.on_conflict_do_update(index_elements=["worker_id", "scorer"], set_=fresh))


def note_failed(
    session: Session, job: Job | None, worker_id: str, version: ScorerVersion, error: str
) -> None:
    """Records that a worker could not load a version: why in the audit log, and that it happened as an event
    for the tenant whose job met it. The error may name the machine's folders, so the event leaves it out."""
    label = registry.label(version)
    if job is not None:
        outbox.add_event(session, job.tenant_id, job.id, LOAD_FAILED, {"scorer": label, "worker": worker_id})
    audit.note(session, audit.SYSTEM, LOAD_FAILED, label, worker=worker_id, error=error)


def forget(session: Session, worker_id: str, scorer: str | None = None) -> None:
    """Records that a worker has unloaded a version or, without a name, all of them."""
    query = delete(WorkerScorer).where(WorkerScorer.worker_id == worker_id)
    session.execute(query if scorer is None else query.where(WorkerScorer.scorer == scorer))


def newest(session: Session) -> int | None:
    """The number of the latest activation, which changes whenever another version starts to serve."""
    return session.scalar(select(func.max(Activation.number)))


def wanted(session: Session, models: Sequence[str]) -> list[ScorerVersion]:
    """The active versions that jobs of these models may need, not counting versions that jobs name."""
    serving = select(Activation.version_id).where(
        Activation.ended_at.is_(None),
        Activation.scope.not_like("model:%") | Activation.scope.in_([f"model:{name}" for name in models]),
    )
    return list(session.scalars(select(ScorerVersion).where(ScorerVersion.id.in_(serving))))


def rollout(session: Session, live_seconds: float) -> list[Rollout]:
    """Every open activation, with the workers that sent a heartbeat in the last `live_seconds`."""
    recent = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, live_seconds)
    live = select(Worker).where(Worker.heartbeat_at > recent, Worker.stopped_at.is_(None))
    alive = list(session.scalars(live.order_by(Worker.id)))
    ids = [worker.id for worker in alive]
    models: dict[str, set[str]] = {worker.id: set() for worker in alive}
    for worker_id, name in session.execute(
        select(WorkerModel.worker_id, WorkerModel.name).where(WorkerModel.worker_id.in_(ids))
    ):
        models[worker_id].add(name)
    loaded: dict[str, list[WorkerScorer]] = {worker.id: [] for worker in alive}
    last_used = select(WorkerScorer).where(WorkerScorer.worker_id.in_(ids)).order_by(WorkerScorer.used_at)
    for row in session.scalars(last_used):
        loaded[row.worker_id].append(row)
    now = session.scalars(select(func.now())).one()
    found = []
    for activation in activations.current(session):
        desired = registry.label(registry.by_id(session, activation.version_id))
        kind, _, model = activation.scope.partition(":")
        here = [worker for worker in alive if kind != "model" or model in models[worker.id]]
        states = [_state(worker, loaded[worker.id], desired, now) for worker in here]
        found.append(Rollout(activation, desired, states))
    return found


def _state(worker: Worker, rows: list[WorkerScorer], desired: str, now: datetime) -> WorkerState:
    """The state of a worker, from its rows with the last used one last."""
    wanted_row = next((row for row in rows if row.scorer == desired), None)
    name = registry.split(desired)[0]
    others = [row for row in rows if registry.split(row.scorer)[0] == name and row.error is None]
    has = others[-1] if others else None
    if wanted_row is not None and wanted_row.error is None:
        has = wanted_row
    return WorkerState(
        worker_id=worker.id,
        host=worker.host,
        scorer=has.scorer if has else None,
        sha256=has.sha256 if has else None,
        loaded_at=has.loaded_at if has else None,
        age_seconds=(now - has.loaded_at).total_seconds() if has else None,
        error=wanted_row.error if wanted_row else None,
    )
