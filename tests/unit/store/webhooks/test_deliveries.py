"""Messages taken by notifiers, tried again, given up, forgotten."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from store import webhooks
from store.database import Database
from store.jobs import reaper
from store.tables.webhooks import Delivery, Webhook
from store.webhooks import deliveries
from store.webhooks.deliveries import MAX_IN_FLIGHT, RETRY_SECONDS, AttemptResult
from tests.support.webhook_messages import (
    DELIVERED,
    FAILED,
    LEASE,
    URL,
    change,
    event,
    fan_out,
    only,
    record,
    take,
)


@pytest.fixture
def webhook(db: Database, tenant: str) -> Webhook:
    with db.session() as session:
        return webhooks.create(session, tenant, URL)


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
    assert len(taken) == MAX_IN_FLIGHT + 1
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
