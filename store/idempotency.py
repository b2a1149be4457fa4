"""Idempotency keys: a request repeated with the same key gets the stored response, not a second job."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import func, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.errors import IdempotencyMismatch
from store.tables.idempotency import IdempotencyKey
from store.tenancy import scoped


class Answer(NamedTuple):
    """The response to the first request with a key."""

    status: int
    body: dict[str, Any]


def begin(
    session: Session, tenant_id: str, route: str, key: str, fingerprint: str, hours: int
) -> Answer | None:
    """Claims the key for this transaction and returns None, or returns the response stored for it.

    A second request with the key waits while the first one's transaction is open. The caller does its work
    and calls `complete` in the same transaction; if that rolls back, the key is free again.
    Raises IdempotencyMismatch if the key was used for a different request.
    """
    row = {
        "tenant_id": tenant_id,
        "route": route,
        "key": key,
        "fingerprint": fingerprint,
        "expires_at": func.now() + text(f"interval '{int(hours)} hours'"),
    }
    fresh = {"fingerprint": fingerprint, "status": None, "response": None, "created_at": func.now()}
    claimed = session.execute(
        insert(IdempotencyKey)
        .values(row)
        .on_conflict_do_update(
            index_elements=["tenant_id", "route", "key"],
            set_={**fresh, "expires_at": row["expires_at"]},
            where=IdempotencyKey.expires_at < func.now(),
        )
        .returning(IdempotencyKey.key)
    ).one_or_none()
    if claimed is not None:
        return None
    found = session.scalars(scoped(IdempotencyKey, tenant_id).filter_by(route=route, key=key)).one()
    if found.fingerprint != fingerprint:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used for a different request. Use a new key for this one."
        )
    assert found.status is not None, "committed without complete()"
    assert found.response is not None, "committed without complete()"
    return Answer(found.status, found.response)


def complete(
    session: Session, tenant_id: str, route: str, key: str, status: int, body: dict[str, Any]
) -> None:
    """Stores the response to the request that claimed the key."""
    session.execute(
        update(IdempotencyKey)
        .filter_by(tenant_id=tenant_id, route=route, key=key)
        .values(status=status, response=body)
    )
