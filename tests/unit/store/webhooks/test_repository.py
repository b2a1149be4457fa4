"""Webhooks: who is told of what, and what happens to a message until it is delivered or given up."""

import ast
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

import api
import store
import worker
from store import jobs, outbox, tenants, webhooks
from store.database import Database
from store.errors import NotFound
from store.jobs import leases, reaper
from store.tables.job_states import TERMINAL, State
from store.tables.outbox import OutboxRow
from store.tables.webhooks import Delivery, Webhook
from store.webhooks import deliveries, event_types
from store.webhooks.deliveries import AT_ONCE, RETRY_SECONDS, AttemptResult, Due
from store.webhooks.egress import UrlRefused
from tests.unit.store.conftest import HOLDER

URL = "https://example.com/hook"
DELIVERED = AttemptResult(204, None, 12)
FAILED = AttemptResult(500, "It answered 500.", 34)
LEASE = 60.0


@pytest.fixture
def webhook(db: Database, tenant: str) -> Webhook:
    with db.session() as session:
        return webhooks.create(session, tenant, URL)


def event(db: Database, tenant: str, kind: str = "job.succeeded", **payload: Any) -> None:
    with db.session() as session:
        outbox.add_event(session, tenant, "job_1", kind, payload)


def fan_out(db: Database) -> list[Delivery]:
    with db.session() as session:
        deliveries.fan_out(session)
    with db.session() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def take(db: Database, limit: int = 100, lease: float = LEASE) -> list[Due]:
    with db.session() as session:
        return deliveries.lease_due(session, limit, lease)


def record(db: Database, due: Due, outcome: AttemptResult) -> bool:
    with db.session() as session:
        return deliveries.record(session, due, outcome)


def change(db: Database, row: type[Any], **values: Any) -> None:
    with db.session() as session:
        session.execute(update(row).values(**values))


def only(session: Session, row: type[Any]) -> Any:
    return session.scalars(select(row)).one()


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


def test_a_message_is_taken_by_one_notifier_until_its_lease_is_over(
    db: Database, tenant: str, webhook: Webhook
) -> None:
    event(db, tenant)
    fan_out(db)
    [first] = take(db)
    assert (first.url, first.generations, first.webhook_id) == (URL, (1,), webhook.id)
    assert take(db) == []
    change(db, Delivery, lease_until=first.lease_until - timedelta(minutes=2))
    [second] = take(db)
    assert (second.id, second.message_id) == (first.id, first.message_id)
    assert not record(db, first, DELIVERED), "the lease is the other one's"
    assert record(db, second, DELIVERED)
    assert not record(db, second, DELIVERED)
    with db.session() as session:
        found = only(session, Delivery)
        assert (found.state, found.attempts, found.last_status) == ("delivered", 1, 204)
        assert found.delivered_at is not None
        assert [(entry["status"], entry["error"], entry["ms"]) for entry in found.log] == [(204, None, 12)]
    assert take(db) == []


def test_two_notifiers_at_once_take_different_messages(db: Database, tenant: str) -> None:
    with db.session() as session:
        for _ in range(4):
            webhooks.create(session, tenant, URL)
    event(db, tenant)
    fan_out(db)
    with db.session() as one, db.session() as two:
        first, second = deliveries.lease_due(one, 3, LEASE), deliveries.lease_due(two, 100, LEASE)
    assert len(first) == 3
    assert not {due.id for due in first} & {due.id for due in second}


def test_a_webhook_gets_few_messages_at_once_and_leaves_room_for_others(db: Database, tenant: str) -> None:
    with db.session() as session:
        webhooks.create(session, tenant, URL, chosen=["job.*"])
    for _ in range(5):
        event(db, tenant)
    with db.session() as session:
        other = webhooks.create(session, tenant, URL, chosen=["budget.crossed"])
    event(db, tenant, "budget.crossed")
    fan_out(db)
    taken = take(db)
    assert len(taken) == AT_ONCE + 1
    assert other.id in {due.webhook_id for due in taken}
    assert take(db) == []
    first = next(due for due in taken if due.webhook_id != other.id)
    record(db, first, FAILED)
    assert len(take(db)) == 1


def test_a_failed_message_is_tried_again_later_each_time_and_then_given_up(
    db: Database, tenant: str, webhook: Webhook
) -> None:
    event(db, tenant)
    fan_out(db)
    for planned in RETRY_SECONDS:
        [due] = take(db)
        record(db, due, FAILED)
        with db.session() as session:
            found = only(session, Delivery)
            assert found.state == "pending"
            waits = (found.next_at - datetime.fromisoformat(found.log[-1]["at"])).total_seconds()
            assert 0.9 * planned <= waits <= 1.1 * planned
            assert 0 < deliveries.seconds_until_due(session, 1e9) <= waits
            assert deliveries.seconds_until_due(session, 1.0) == 1.0
        assert take(db) == []
        change(db, Delivery, next_at=found.created_at)
    [due] = take(db)
    record(db, due, FAILED)
    with db.session() as session:
        found = only(session, Delivery)
        assert (found.state, found.attempts, len(found.log)) == ("failed", 10, 10)
        assert only(session, Webhook).disabled_at is None, "it has not failed for five days"
        assert deliveries.seconds_until_due(session, 5.0) == 5.0
    assert take(db) == []


def test_a_receiver_may_put_the_next_attempt_off_but_not_for_ever(
    db: Database, tenant: str, webhook: Webhook
) -> None:
    for asked, least, most in ((120.0, 120, 120), (1.0, 4.5, 5.5), (1e9, 86_400, 86_400), (-5.0, 4.5, 5.5)):
        change(db, Delivery, state="failed")
        event(db, tenant)
        fan_out(db)
        [due] = take(db)
        record(db, due, AttemptResult(503, "It answered 503.", 1, asked))
        with db.session() as session:
            found = session.get(Delivery, due.id)
            assert found is not None
            waits = (found.next_at - datetime.fromisoformat(found.log[-1]["at"])).total_seconds()
        assert least <= waits <= most


def test_gone_disables_the_webhook(db: Database, tenant: str, webhook: Webhook) -> None:
    event(db, tenant)
    event(db, tenant)
    fan_out(db)
    [due, _] = take(db)
    record(db, due, AttemptResult(410, "It answered 410.", 1))
    with db.session() as session:
        found = only(session, Webhook)
        assert found.disabled_at is not None
        assert "410" in found.disabled_reason
        states = list(session.scalars(select(Delivery.state).order_by(Delivery.state)))
    assert states == ["failed", "pending"]
    change(db, Delivery, lease_until=None)
    assert take(db) == [], "nothing goes to a disabled webhook"
    event(db, tenant)
    assert len(fan_out(db)) == 2
    with db.session() as session:
        for refused in (
            lambda: webhooks.send_test(session, tenant, webhook.id),
            lambda: webhooks.redeliver(session, tenant, webhook.id, due.id),
        ):
            with pytest.raises(webhooks.WebhookDisabled):
                refused()
        webhooks.enable(session, tenant, webhook.id)
    assert len(take(db)) == 1


@pytest.mark.parametrize(("days", "disabled"), [(4, False), (6, True)])
def test_a_webhook_without_any_success_for_five_days_is_disabled(
    db: Database, tenant: str, webhook: Webhook, days: int, disabled: bool
) -> None:
    event(db, tenant)
    fan_out(db)
    since = webhook.created_at - timedelta(days=days)
    change(db, Webhook, failing_since=since)
    change(db, Delivery, attempts=len(RETRY_SECONDS))
    [due] = take(db)
    record(db, due, FAILED)
    with db.session() as session:
        found = only(session, Webhook)
        assert (found.disabled_at is not None) == disabled
        assert found.failing_since == since
        if disabled:
            assert found.disabled_reason == f"Every delivery has failed since {since:%Y-%m-%d %H:%M} UTC."


def test_a_success_ends_the_count_of_days(db: Database, tenant: str, webhook: Webhook) -> None:
    for outcome in (FAILED, DELIVERED):
        event(db, tenant)
        fan_out(db)
        [due] = take(db)
        record(db, due, outcome)
        with db.session() as session:
            assert (only(session, Webhook).failing_since is None) == (outcome is DELIVERED)


def test_a_deleted_webhook_takes_its_messages_along(db: Database, tenant: str, webhook: Webhook) -> None:
    event(db, tenant)
    fan_out(db)
    [due] = take(db)
    with db.session() as session:
        webhooks.remove(session, tenant, webhook.id)
    assert not record(db, due, DELIVERED)
    assert fan_out(db) == []


def test_a_secret_is_its_webhooks_and_generations_own_and_stored_nowhere(
    db: Database, tenant: str, webhook: Webhook
) -> None:
    pepper = b"p" * 32
    first = webhooks.secret(pepper, webhook.id, 1)
    assert first.startswith("whsec_")
    different = {
        first,
        webhooks.secret(b"q" * 32, webhook.id, 1),
        webhooks.secret(pepper, "whk_other", 1),
        webhooks.secret(pepper, webhook.id, 2),
    }
    assert len(different) == 4
    with db.session() as session:
        assert first[6:] not in str(session.scalars(text("SELECT webhooks::text FROM webhooks")).all())


def test_for_a_day_after_a_rotation_both_secrets_sign(db: Database, tenant: str, webhook: Webhook) -> None:
    with db.session() as session:
        rotated = webhooks.rotate(session, tenant, webhook.id)
        assert rotated.generation == 2
        assert rotated.rotated_at is not None
    event(db, tenant)
    fan_out(db)
    assert [due.generations for due in take(db)] == [(2, 1)]
    change(db, Webhook, rotated_at=rotated.rotated_at - timedelta(hours=25))
    change(db, Delivery, lease_until=None)
    assert [due.generations for due in take(db)] == [(2,)]


def test_a_test_goes_to_one_webhook_whatever_it_chose(db: Database, tenant: str, webhook: Webhook) -> None:
    with db.session() as session:
        chosen = webhooks.create(session, tenant, URL, chosen=["budget.crossed"])
        made = webhooks.send_test(session, tenant, chosen.id)
        assert (made.state, made.log, made.event_type) == ("pending", [], "webhook.test")
        assert made.payload["data"] == {"webhook": chosen.id}
    assert [due.id for due in take(db)] == [made.id]


def test_a_message_is_sent_again_by_hand_under_its_id(db: Database, tenant: str, webhook: Webhook) -> None:
    event(db, tenant)
    fan_out(db)
    [due] = take(db)
    with db.session() as session:
        flying = webhooks.redeliver(session, tenant, webhook.id, due.id)
        assert flying.lease_until == due.lease_until, "it is on its way: left alone"
    record(db, due, DELIVERED)
    with db.session() as session:
        again = webhooks.redeliver(session, tenant, webhook.id, due.id)
        assert (again.state, again.attempts, again.delivered_at) == ("pending", 0, None)
        assert len(again.log) == 1
    [second] = take(db)
    assert second.message_id == due.message_id
    record(db, second, FAILED)
    with db.session() as session:
        assert [entry["status"] for entry in only(session, Delivery).log] == [204, 500]


def test_what_is_refused(db: Database, tenant: str) -> None:
    with db.session() as session:
        with pytest.raises(UrlRefused):
            webhooks.create(session, tenant, "https://10.0.0.1/")
        with pytest.raises(UrlRefused):
            webhooks.create(session, tenant, "http://127.0.0.1/")
        webhooks.create(session, tenant, "http://127.0.0.1/", allow_loopback=True)
        for name in ("job.suceeded", "jobs.*", "*", "webhook.test"):
            with pytest.raises(webhooks.UnknownEvent, match="Known: budget"):
                webhooks.create(session, tenant, URL, chosen=[name])
        for _ in range(webhooks.MOST - 1):
            webhooks.create(session, tenant, URL)
        with pytest.raises(webhooks.TooManyWebhooks):
            webhooks.create(session, tenant, URL)


def test_another_tenant_sees_and_changes_nothing(db: Database, tenant: str, webhook: Webhook) -> None:
    with db.session() as session:
        other = tenants.ensure(session, "ten_other", "other")
        own = webhooks.create(session, other, URL)
        sent = webhooks.send_test(session, tenant, webhook.id)
        assert webhooks.list_webhooks(session, other) == [own]
        for refused in (
            webhooks.get,
            webhooks.remove,
            webhooks.rotate,
            webhooks.enable,
            webhooks.send_test,
            webhooks.list_deliveries,
        ):
            with pytest.raises(NotFound):
                refused(session, other, webhook.id)
        for theirs in (webhook.id, own.id):
            with pytest.raises(NotFound):
                webhooks.redeliver(session, other, theirs, sent.id)
    event(db, other)
    assert {one.webhook_id for one in fan_out(db) if one.event_type != "webhook.test"} == {own.id}


def test_old_messages_are_forgotten(db: Database, tenant: str, webhook: Webhook) -> None:
    for days in (29, 31):
        event(db, tenant)
        fan_out(db)
        with db.session() as session:
            aged = update(Delivery).where(Delivery.event_type == "job.succeeded")
            moment = webhook.created_at - timedelta(days=days)
            session.execute(aged.values(created_at=moment, event_type=f"{days}"))
    with db.session() as session:
        reaper.forget(session)
        assert list(session.scalars(select(Delivery.event_type))) == ["29"]
