"""Workers and the models they serve. The API validates jobs against these, without loading a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.tables.workers import Worker, WorkerModel


@dataclass(frozen=True)
class ModelCard:
    """A worker's description of a model. Fields are None until the worker has loaded it."""

    name: str
    revision: str | None = None
    window: int | None = None  # positions it was trained on
    vocab_size: int | None = None
    dense_bytes_per_token: int | None = None
    tokenizer_sha256: str | None = None
    policies: list[str] | None = None
    scorers: list[dict[str, str]] | None = None  # name, version, sha256
    default_policy: str | None = None
    default_policy_reason: str | None = None  # a sentence


@dataclass(frozen=True)
class ServingWorker:
    """A live worker that serves a model, and the revision it has loaded."""

    id: str
    revision: str | None
    loaded_at: datetime | None  # None until then


@dataclass(frozen=True)
class ServedModel:
    """A model across the workers that serve it, described by the freshest card."""

    card: ModelCard
    workers_live: int
    loaded: bool  # by at least one live worker
    errors: list[str] = field(default_factory=list)  # why live workers could not load it
    workers: list[ServingWorker] = field(default_factory=list)  # live ones


def register(session: Session, worker_id: str, host: str, device_type: str) -> None:
    """Registers the worker, unless it is registered already."""
    row = insert(Worker).values(id=worker_id, host=host, device_type=device_type)
    session.execute(row.on_conflict_do_nothing())


def heartbeat(session: Session, worker_id: str) -> bool:
    """Records that the worker is alive; False if it is not (or no longer) registered."""
    beat = update(Worker).where(Worker.id == worker_id).values(heartbeat_at=func.now())
    return session.scalar(beat.returning(Worker.id)) is not None


def advertise(session: Session, worker_id: str, card: ModelCard, *, loaded: bool) -> None:
    """Registers a model that the worker serves.

    Once it is loaded, the card replaces the earlier one and clears its error; until then an earlier one
    stays.
    """
    values: dict[str, Any] = {**vars(card), "error": None}
    statement = insert(WorkerModel).values(worker_id=worker_id, **values)
    if loaded:
        fresh = {**values, "loaded_at": func.now()}
        statement = statement.values(loaded_at=func.now())
        statement = statement.on_conflict_do_update(index_elements=["worker_id", "name"], set_=fresh)
    else:
        statement = statement.on_conflict_do_nothing()
    session.execute(statement)


def record_error(session: Session, worker_id: str, name: str, error: str) -> None:
    """Records that the worker could not load a model it should serve."""
    statement = insert(WorkerModel).values(worker_id=worker_id, name=name, error=error)
    session.execute(
        statement.on_conflict_do_update(index_elements=["worker_id", "name"], set_={"error": error})
    )


def request_stop(session: Session, worker_id: str) -> None:
    """Tells the worker's task to give its jobs back and return, which a warm shutdown waits for."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(stopping_at=func.now()))


def is_stopping(session: Session, worker_id: str) -> bool:
    """Whether the worker was told to stop."""
    return bool(session.scalar(select(Worker.stopping_at.is_not(None)).where(Worker.id == worker_id)))


def mark_stopped(session: Session, worker_id: str) -> None:
    """Records a clean shutdown: the worker serves nothing any more."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(stopped_at=func.now()))
    session.execute(delete(WorkerModel).where(WorkerModel.worker_id == worker_id))


def delete_all(session: Session) -> None:
    """Deletes every worker; one that is still alive registers again with its next heartbeat."""
    session.execute(delete(Worker))


def models(session: Session, live_seconds: float) -> list[ServedModel]:
    """Every registered model, by name, whether or not a live worker serves it now."""
    recent = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, live_seconds)
    live = (Worker.heartbeat_at > recent) & Worker.stopped_at.is_(None)
    query = (
        select(WorkerModel, live.label("live"))
        .join(Worker, Worker.id == WorkerModel.worker_id)
        # the most complete card first: of live workers, loaded, then freshest
        .order_by(WorkerModel.name, live.desc(), WorkerModel.loaded_at.is_(None), Worker.heartbeat_at.desc())
    )
    by_name: dict[str, list[tuple[WorkerModel, bool]]] = {}
    for row, is_live in session.execute(query):
        by_name.setdefault(row.name, []).append((row, is_live))
    return [_served(rows) for rows in by_name.values()]


def _served(rows: list[tuple[WorkerModel, bool]]) -> ServedModel:
    first = rows[0][0]
    card = ModelCard(**{name: getattr(first, name) for name in ModelCard.__dataclass_fields__})
    live = [row for row, is_live in rows if is_live]
    return ServedModel(
        card=card,
        workers_live=len(live),
        loaded=any(row.loaded_at is not None for row in live),
        errors=[row.error for row in live if row.error is not None],
        workers=[ServingWorker(row.worker_id, row.revision, row.loaded_at) for row in live],
    )
