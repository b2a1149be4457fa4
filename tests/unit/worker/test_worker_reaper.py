"""What a pass of the reaper's loop does beside the store's sweep."""

from store import activations, blobs, tenants
from store.activations import Alias
from store.database import Database
from store.settings import Settings
from tests.unit.store.test_store_activations import make
from tests.unit.store.test_store_guardrails import FAILURES, book, bound
from worker.reaper import reap_once


def test_a_pass_ends_canaries_that_crossed_their_bounds(db: Database, config: Settings) -> None:
    with db.session() as session:
        tenants.ensure(session)
        activations.activate(session, make(session, "1"), "global", "key_1")
        canary = bound(session, FAILURES)
        book(session, failed=10, succeeded=0)
    reap_once(db, blobs.connect(config), config)
    with db.session() as session:
        assert [row.alias for row in activations.current(session)] == [Alias.STABLE]
        assert canary.id in {row.id for row in activations.history(session)}
