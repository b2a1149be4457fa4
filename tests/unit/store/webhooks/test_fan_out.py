"""Events that become messages, one for each webhook that wants them."""

import ast
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

import api
import store
import worker
from store import jobs, outbox, tenants, webhooks
from store.database import Database
from store.jobs import leases
from store.tables.job_states import TERMINAL, State
from store.tables.outbox import OutboxRow
from store.tables.webhooks import Webhook
from store.webhooks import deliveries, event_types
from tests.support.webhook_messages import (
    URL,
    event,
    fan_out,
)
from tests.unit.store.conftest import HOLDER


@pytest.fixture
def webhook(db: Database, tenant: str) -> Webhook:
    with db.session() as session:
        return webhooks.create(session, tenant, URL)


def test_an_event_becomes_one_message_for_each_webhook_that_wants_it(db: Database, tenant: str) -> None:
    with db.session() as session:
        every = webhooks.create(session, tenant, URL)
        family = webhooks.create(session, tenant, URL, chosen=["job.*"])
        exact = webhooks.create(session, tenant, URL, chosen=["job.failed", "job.succeeded"])
        webhooks.create(session, tenant, URL, chosen=["budget.crossed"])
        disabled = webhooks.create(session, tenant, URL)
        disabled.disabled_at = session.scalars(select(Webhook.created_at)).first()
        other = tenants.ensure(session, "ten_other", "other")
        webhooks.create(session, other, URL)
    event(db, tenant, attempt=2)
    made = fan_out(db)
    assert {one.webhook_id for one in made} == {every.id, family.id, exact.id}
    assert len({one.message_id for one in made}) == 1
    assert made[0].message_id.startswith("msg_")
    assert made[0].payload["type"] == "job.succeeded"
    assert made[0].payload["data"] == {"job": "job_1", "attempt": 2}
    assert datetime.fromisoformat(made[0].payload["timestamp"]).tzinfo is not None
    with db.session() as session:
        assert list(session.scalars(select(OutboxRow))) == []
    assert len(fan_out(db)) == 3


def test_a_webhook_is_not_told_of_what_was_before_it(db: Database, tenant: str) -> None:
    event(db, tenant)
    with db.session() as session:
        webhooks.create(session, tenant, URL)
    assert fan_out(db) == []


def test_two_notifiers_fan_out_different_events(db: Database, tenant: str, webhook: Webhook) -> None:
    for _ in range(3):
        event(db, tenant)
    with db.session() as one, db.session() as two:
        assert deliveries.fan_out(one, 2) == 2
        assert deliveries.fan_out(two) == 1
    assert len(fan_out(db)) == 3


def test_hints_are_left_to_the_relay(db: Database, tenant: str, webhook: Webhook) -> None:
    with db.session() as session:
        outbox.add_hint(session, "small")
    assert fan_out(db) == []
    with db.session() as session:
        assert len(outbox.lock_hints(session)) == 1


def test_an_event_wakes_a_notifier_and_a_hint_does_not(db: Database, tenant: str) -> None:
    with outbox.listen(db.engine, outbox.EVENTS) as heard:
        with db.session() as session:
            outbox.add_hint(session, "small")
        assert not outbox.wait(heard, 0.1)
        event(db, tenant)
        assert outbox.wait(heard, 10)


def test_the_end_of_a_job_says_how_it_ended(db: Database, tenant: str, submit: Any, webhook: Webhook) -> None:
    job = submit()
    with db.session() as session:
        [claimed] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=30)
        assert claimed.lease_token is not None
        leases.finish(
            session, job.id, claimed.lease_token, State.FAILED, code="document_too_long", message="!"
        )
    [made] = fan_out(db)
    assert made.event_type == "job.failed"
    told = {"job": job.id, "state": "failed", "attempt": 1, "error": "document_too_long"}
    assert made.payload["data"] == told


def test_every_end_of_a_job_is_a_known_event(db: Database, tenant: str, submit: Any) -> None:
    for state in TERMINAL:
        job = submit()
        with db.session() as session:
            jobs.close(session, session.merge(job), state, None, None)
    with db.session() as session:
        seen = set(session.scalars(text("SELECT payload->>'type' FROM outbox WHERE kind = 'event'")))
    assert seen == {f"job.{state.value}" for state in TERMINAL}
    assert seen <= event_types.TYPES


def test_every_event_that_is_written_out_in_the_source_is_known() -> None:
    found = set()
    for room in (store, worker, api):
        for file in Path(room.__path__[0]).rglob("*.py"):
            for call in (
                node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)
            ):
                if ast.unparse(call.func).endswith("add_event"):
                    found |= {arg.value for arg in call.args if isinstance(arg, ast.Constant) and arg.value}
    assert "budget.crossed" in found
    assert found <= event_types.TYPES
