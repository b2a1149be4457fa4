"""The notifier with real receivers: retries, dead notifiers, slow receivers, several notifiers."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from store import outbox, webhooks
from store.database import Database
from store.settings import Settings
from store.tables.webhooks import Delivery, Webhook
from store.webhooks import deliveries
from tests.support.notifying import notify_once
from tests.support.receiver import Receiver, receiver
from worker.webhooks.notifier import Notifier
from worker.webhooks.sender import Sender

SETTINGS = Settings.model_validate({"api_key_pepper": "p" * 32, "webhook_allow_loopback": True})


@pytest.fixture
def found() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def listen(db: Database, tenant: str, found: Receiver, *chosen: str) -> Webhook:
    with db.session() as session:
        return webhooks.create(session, tenant, found.url, chosen=chosen, allow_loopback=True)


def event(db: Database, tenant: str, kind: str = "job.succeeded", times: int = 1) -> None:
    with db.session() as session:
        for _ in range(times):
            outbox.add_event(session, tenant, "job_1", kind, {})


def rows(db: Database) -> list[Delivery]:
    with db.session() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def make_due(db: Database) -> None:
    with db.session() as session:
        session.execute(update(Delivery).values(next_at=Delivery.created_at, lease_until=None))


def test_a_message_is_sent_until_it_is_taken_under_one_id(db: Database, tenant: str, found: Receiver) -> None:
    listen(db, tenant, found)
    event(db, tenant)
    for found.status in (500, 302, 204):
        assert notify_once(db, SETTINGS) == 1
        assert notify_once(db, SETTINGS) == 0
        make_due(db)
    [row] = rows(db)
    assert row.state == "delivered"
    assert [entry["status"] for entry in row.log] == [500, 302, 204]
    assert found.ids() == [row.message_id] * 3


def test_gone_is_heeded(db: Database, tenant: str, found: Receiver) -> None:
    webhook = listen(db, tenant, found)
    event(db, tenant)
    found.status = 410
    notify_once(db, SETTINGS)
    with db.session() as session:
        assert webhooks.get(session, tenant, webhook.id).disabled_at is not None
    event(db, tenant)
    assert notify_once(db, SETTINGS) == 0
    assert len(found.came) == 1


def test_what_a_dead_notifier_sent_and_did_not_record_is_sent_again(
    db: Database, tenant: str, found: Receiver
) -> None:
    listen(db, tenant, found)
    event(db, tenant)
    with db.session() as session:
        deliveries.fan_out(session)
    with db.session() as session:
        [due] = deliveries.lease_due(session, 1, 60)
    Sender(SETTINGS).send(due)
    assert notify_once(db, SETTINGS) == 0, "its lease is not over"
    make_due(db)
    assert notify_once(db, SETTINGS) == 1
    assert found.ids() == [due.message_id] * 2


def test_a_slow_receiver_holds_up_nobody_else(db: Database, tenant: str, found: Receiver) -> None:
    with receiver() as slow:
        slow.hold.clear()
        late = listen(db, tenant, slow, "job.*")
        event(db, tenant, times=40)
        prompt = listen(db, tenant, found, "budget.*")
        event(db, tenant, "budget.crossed", times=5)
        notifier = Notifier(db, Sender(SETTINGS))
        for _ in range(5):
            while not found.arrived.acquire(timeout=0.05):
                notifier.step()
        assert len(found.came) == 5
        assert len(slow.came) <= deliveries.MAX_IN_FLIGHT
        slow.hold.set()
        notifier.wait_until_idle()
        while notifier.step():
            notifier.wait_until_idle()
        notifier.close()
    delivered = {webhook.id: 0 for webhook in (late, prompt)}
    for row in rows(db):
        delivered[row.webhook_id] += row.state == "delivered"
    assert delivered == {late.id: 40, prompt.id: 5}


def test_several_notifiers_send_each_message_once(db: Database, tenant: str, found: Receiver) -> None:
    with db.session() as session:
        for _ in range(3):
            webhooks.create(session, tenant, found.url, allow_loopback=True)
    event(db, tenant, times=10)
    threads = [threading.Thread(target=notify_once, args=(db, SETTINGS)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notify_once(db, SETTINGS)
    assert {row.state for row in rows(db)} == {"delivered"}
    assert len(found.came) == 30
    assert len(set(found.ids())) == 10


def test_a_sender_that_breaks_leaves_the_message_to_its_lease(
    db: Database, tenant: str, found: Receiver
) -> None:
    class Broken(Sender):
        def send(self, due: Any) -> Any:
            raise RuntimeError("unforeseen")

    listen(db, tenant, found)
    event(db, tenant)
    notifier = Notifier(db, Broken(SETTINGS))
    assert notifier.step() == 1
    notifier.wait_until_idle()
    notifier.close()
    [row] = rows(db)
    assert (row.state, row.attempts) == ("pending", 0)
    make_due(db)
    assert notify_once(db, SETTINGS) == 1
    assert rows(db)[0].state == "delivered"
