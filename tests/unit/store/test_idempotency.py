"""Idempotency keys: one answer a key."""

import threading

import pytest

from store import idempotency
from store.database import Database
from store.errors import IdempotencyMismatch


def test_idempotency_key_gives_the_first_answer(db: Database, tenant: str) -> None:
    ask = (tenant, "POST /v1/jobs", "key-1")
    with db.session() as session:
        assert idempotency.begin(session, *ask, "print", hours=24) is None
        idempotency.complete(session, *ask, 201, {"id": "job_1"})
    with db.session() as session:
        assert idempotency.begin(session, *ask, "print", hours=24) == (201, {"id": "job_1"})
        with pytest.raises(IdempotencyMismatch):
            idempotency.begin(session, *ask, "other print", hours=24)
        assert idempotency.begin(session, tenant, "POST /v1/documents", "key-1", "print", hours=24) is None


def test_idempotency_key_of_a_failed_request_is_free_again(db: Database, tenant: str) -> None:
    with db.session() as session:
        idempotency.begin(session, tenant, "r", "k", "f", hours=24)
        session.rollback()
    with db.session() as session:
        assert idempotency.begin(session, tenant, "r", "k", "another", hours=24) is None
        idempotency.complete(session, tenant, "r", "k", 201, {})


def test_two_requests_at_once_with_one_key_become_one(db: Database, tenant: str) -> None:
    answers: list[object] = []

    def second() -> None:
        with db.session() as session:
            answers.append(idempotency.begin(session, tenant, "r", "k", "f", hours=24))

    thread = threading.Thread(target=second)
    with db.session() as session:
        assert idempotency.begin(session, tenant, "r", "k", "f", hours=24) is None
        thread.start()
        thread.join(0.3)
        assert answers == []  # it waits for the first one's outcome
        idempotency.complete(session, tenant, "r", "k", 201, {"id": 1})
    thread.join()
    assert answers == [(201, {"id": 1})]
