"""A notifier that is killed while a message is on its way: the message comes again, under the same id."""

from sqlalchemy import select, text

from store import outbox, webhooks
from store.tables.webhooks import Delivery
from tests.chaos.conftest import Service, wait_for
from tests.support.receiver import receiver


def test_a_message_in_flight_survives_its_notifier(service: Service) -> None:
    development = {"PALIMPSEST_WEBHOOK_ALLOW_LOOPBACK": "true", "PALIMPSEST_NOTIFIER_SECONDS": "0.5"}

    def state() -> str:
        with service.database.session() as session:
            return session.scalars(select(Delivery.state)).one()

    with receiver() as found:
        with service.database.session() as session:
            webhooks.create(session, service.tenant, found.url, allow_loopback=True)
        found.hold.clear()
        first = service.start("notifier", "worker.webhooks.notifier", **development)
        with service.database.session() as session:
            outbox.add_event(session, service.tenant, "job_1", "job.succeeded", {})
        wait_for("the message to arrive", lambda: found.came)
        first.kill()
        first.wait()
        found.hold.set()
        assert state() == "pending"
        with service.database.session() as session:  # rather than a minute's wait
            session.execute(text("UPDATE webhook_deliveries SET lease_until = now()"))
        second = service.start("notifier", "worker.webhooks.notifier", **development)
        wait_for("the message to be delivered", lambda: state() == "delivered")
        second.terminate()
        assert second.wait() == 0
        assert len(found.ids()) == 2
        assert len(set(found.ids())) == 1
