"""The scorer registry: versions of scorers, from upload to verification.

Which one serves is decided in `store.scorers.activations`.

uploaded → verified → active ⇄ retired, or uploaded → rejected. A version and its files never change.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import and_, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import audit, outbox
from store.errors import Conflict, NotFound, StoreError
from store.ids import new_id
from store.tables.scorers import ScorerVersion

UPLOADS = "uploads"  # the blob folder of uploads that are not verified yet
MOST_ATTEMPTS = 3  # verifications that may die before the version is rejected
_LOCK = 7_041_966_318  # any fixed number: an advisory lock on choosing the next version


class VersionState(StrEnum):
    """The state of a version. Jobs may run with verified, active and retired ones."""

    UPLOADED = "uploaded"
    VERIFIED = "verified"
    ACTIVE = "active"  # serves at least one scope
    RETIRED = "retired"  # served a scope in the past
    REJECTED = "rejected"


USABLE = (VersionState.VERIFIED, VersionState.ACTIVE, VersionState.RETIRED)


class VersionExists(Conflict):
    """This version of the scorer exists with different content."""

    code = "scorer_version_exists"


def label(row: ScorerVersion) -> str:
    """`name@version`."""
    return f"{row.name}@{row.version}"


def split(scorer: str) -> tuple[str, str | None]:
    """`name` or `name@version` → name, version."""
    name, _, version = scorer.partition("@")
    return name, version or None


def upload(
    session: Session, *, name: str, version: str, kind: str, upload_key: str, upload_sha256: str, actor: str
) -> tuple[ScorerVersion, bool]:
    """Registers an upload and asks for its verification; returns the row, and whether it is new.

    Uploading the same content again changes nothing. Raises VersionExists for different content.
    """
    values = {
        "id": new_id("scv"),
        "name": name,
        "version": version,
        "kind": kind,
        "upload_key": upload_key,
        "upload_sha256": upload_sha256,
        "created_by": actor,
    }
    row = session.scalars(
        insert(ScorerVersion).values(**values).on_conflict_do_nothing().returning(ScorerVersion)
    ).one_or_none()
    if row is not None:
        audit.note(session, actor, "scorer.uploaded", label(row), sha256=upload_sha256, kind=kind)
        outbox.add_scorer_hint(session)
        return row, True
    found = get(session, name, version)
    if found.upload_sha256 != upload_sha256:
        raise VersionExists(
            f"{name}@{version} already exists with other content. Versions never change; use another one."
        )
    return found, False


def next_version(session: Session, name: str, taken: set[str], upload_sha256: str) -> str:
    """The version for an upload without one: that of the same content, else the next whole number.

    `taken` are versions bundled with workers. Locks out concurrent calls until the transaction ends.
    """
    session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    known = versions(session, name=name)
    same = (row.version for row in known if row.upload_sha256 == upload_sha256)
    numbers = [int(version) for version in (*taken, *(row.version for row in known)) if _is_number(version)]
    return next(same, str(max(numbers, default=0) + 1))


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdecimal() and len(version) < 10


def get(session: Session, name: str, version: str) -> ScorerVersion:
    """Raises NotFound."""
    query = select(ScorerVersion).where(ScorerVersion.name == name, ScorerVersion.version == version)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise NotFound(f"There is no scorer {name}@{version} in the registry.")
    return row


def by_id(session: Session, version_id: str) -> ScorerVersion:
    """The version with an id that is known to exist."""
    return session.get_one(ScorerVersion, version_id)


def versions(
    session: Session,
    *,
    name: str | None = None,
    states: tuple[VersionState, ...] = tuple(VersionState),
    after: tuple[str, str] | None = None,
    limit: int | None = None,
) -> list[ScorerVersion]:
    """By name, the newest version first; `after` is name and id of the previous page's last one."""
    query = select(ScorerVersion).where(ScorerVersion.state.in_(states))
    if name is not None:
        query = query.where(ScorerVersion.name == name)
    if after is not None:
        same = and_(ScorerVersion.name == after[0], ScorerVersion.id < after[1])
        query = query.where(or_(ScorerVersion.name > after[0], same))
    return list(session.scalars(query.order_by(ScorerVersion.name, ScorerVersion.id.desc()).limit(limit)))


def next_to_verify(session: Session, seconds: float) -> ScorerVersion | None:
    """The oldest uploaded version that nobody is verifying; reserved for the caller for `seconds`.

    Commit before verifying, so that the attempt counts even if it kills the process. Versions whose
    verification has died MOST_ATTEMPTS times are rejected here.
    """
    query = (
        select(ScorerVersion)
        .where(*_WAITING)
        .order_by(ScorerVersion.created_at, ScorerVersion.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while (row := session.scalars(query).one_or_none()) is not None:
        if row.attempts < MOST_ATTEMPTS:
            row.attempts += 1
            row.checking_until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
            session.flush()
            return row
        reason = f"Its verification was started {row.attempts} times and never finished."
        mark_rejected(session, row, "verification_died", reason)
    return None


def upload_keys(session: Session) -> set[str]:
    """The blob folders of uploads that are still to be verified."""
    query = select(ScorerVersion.upload_key).where(ScorerVersion.state == VersionState.UPLOADED)
    return set(session.scalars(query))


_WAITING = (
    ScorerVersion.state == VersionState.UPLOADED,
    or_(ScorerVersion.checking_until.is_(None), ScorerVersion.checking_until < func.now()),
)


def any_to_verify(session: Session) -> bool:
    """Whether an uploaded version waits for verification."""
    return bool(session.scalar(select(exists().where(*_WAITING))))


def hint_again(session: Session, hint_seconds: float) -> int:
    """Sends another hint if uploads have waited so long since the last one; returns the number of hints."""
    limit = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, hint_seconds)
    unheard = select(ScorerVersion.id).where(*_WAITING, ScorerVersion.hinted_at < limit)
    waiting = unheard.with_for_update(skip_locked=True).cte()
    statement = update(ScorerVersion).where(ScorerVersion.id == waiting.c.id).values(hinted_at=func.now())
    changed = session.scalars(
        statement.returning(ScorerVersion.id), execution_options={"synchronize_session": False}
    ).all()
    if not changed:
        return 0
    outbox.add_scorer_hint(session)
    return 1


def postpone(session: Session, row: ScorerVersion, reason: str, seconds: float) -> None:
    """Returns an attempt that failed through the service's own fault; it is repeated after a while."""
    statement = (
        update(ScorerVersion)
        .where(ScorerVersion.id == row.id, ScorerVersion.state == VersionState.UPLOADED)
        .values(
            attempts=func.greatest(ScorerVersion.attempts - 1, 0),
            checking_until=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
            reason=reason,
        )
    )
    session.execute(statement, execution_options={"synchronize_session": False})


def mark_verified(
    session: Session, row: ScorerVersion, *, blob_key: str, sha256: str, manifest: dict[str, Any]
) -> None:
    """Marks an uploaded version as verified: it can be activated, and named in jobs."""
    values = {"blob_key": blob_key, "sha256": sha256, "manifest": manifest, "reason": None}
    _decide(session, row, VersionState.VERIFIED, values)
    audit.note(session, audit.SYSTEM, "scorer.verified", label(row), sha256=sha256)


def mark_rejected(session: Session, row: ScorerVersion, code: str, reason: str) -> None:
    """Marks an uploaded version as rejected: it can never serve."""
    _decide(session, row, VersionState.REJECTED, {"reason": f"{code}: {reason}"})
    audit.note(session, audit.SYSTEM, "scorer.rejected", label(row), code=code, reason=reason)


def _decide(session: Session, row: ScorerVersion, state: VersionState, values: dict[str, Any]) -> None:
    changed = (
        update(ScorerVersion)
        .where(ScorerVersion.id == row.id, ScorerVersion.state == VersionState.UPLOADED)
        .values(state=state, checked_at=func.now(), **values)
        .returning(ScorerVersion.id)
    )
    if session.scalars(changed).one_or_none() is None:
        raise StoreError(f"{label(row)} is {row.state}; only uploaded versions are verified.")
    session.refresh(row)


def attach_evaluation(session: Session, row: ScorerVersion, table: dict[str, Any], actor: str) -> None:
    """Attaches the output of `namm evaluate` to a version, in place of an earlier one."""
    row.evaluation = table
    audit.note(session, actor, "scorer.evaluated", label(row))
