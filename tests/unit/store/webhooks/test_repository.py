"""Webhooks as their owners see them: secrets, tests, redelivery, what is refused."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from store import tenants, webhooks
from store.database import Database
from store.errors import NotFound
from store.tables.webhooks import Delivery, Webhook
from store.webhooks.egress import UrlRefused
from tests.support.webhook_messages import DELIVERED, FAILED, URL, change, event, fan_out, only, record, take


@pytest.fixture
def webhook(db: Database, tenant: str) -> Webhook:
    with db.session() as session:
        return webhooks.create(session, tenant, URL)


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
