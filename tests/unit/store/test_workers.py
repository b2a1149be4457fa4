"""Workers and the models they serve."""

import json

from sqlalchemy import text

from store import workers
from store.database import Database
from store.workers import ModelCard
from tests.support.models import find_model


def test_models_of_workers(db: Database) -> None:
    light, full = ModelCard("m", window=8), ModelCard("m", revision="r1", window=9, policies=["window"])
    with db.session() as session:
        workers.register(session, "wrk_a", "host", "cpu")
        workers.register(session, "wrk_a", "host", "cpu")
        assert workers.heartbeat(session, "wrk_a")
        assert not workers.heartbeat(session, "wrk_unknown")
        assert find_model(session, "m", 60) is None
        workers.advertise(session, "wrk_a", light, loaded=False)
        first = find_model(session, "m", 60)
        assert first is not None
        assert (first.card, first.loaded) == (light, False)
        workers.record_error(session, "wrk_a", "m", "No memory.")
        workers.advertise(session, "wrk_a", full, loaded=True)
        workers.advertise(session, "wrk_a", light, loaded=False)  # comes late: what is loaded stands
        [served] = workers.models(session, 60)
        assert (served.card, served.loaded, served.workers_live, served.errors) == (full, True, 1, [])
        workers.mark_stopped(session, "wrk_a")
        assert workers.models(session, 60) == []


def test_killed_workers_model_stays_known_until_all_are_forgotten(db: Database) -> None:
    with db.session() as session:
        workers.register(session, "wrk_killed", "host", "cpu")
        workers.advertise(session, "wrk_killed", ModelCard("m"), loaded=True)
        session.execute(text("UPDATE workers SET heartbeat_at = now() - interval '61 s'"))
        [silent] = workers.models(session, 60)
        assert (silent.workers_live, silent.loaded) == (0, False)
        workers.delete_all(session)
        assert workers.models(session, 60) == []
        assert not workers.heartbeat(session, "wrk_killed")  # so a living one would register again


def test_stop_request_is_for_one_worker(db: Database) -> None:
    with db.session() as session:
        for name in ("wrk_a", "wrk_b"):
            workers.register(session, name, "host", "cpu")
        workers.request_stop(session, "wrk_a")
        assert workers.is_stopping(session, "wrk_a")
        assert not workers.is_stopping(session, "wrk_b")


def test_card_is_plain_json() -> None:
    assert json.loads(json.dumps(vars(ModelCard("m", policies=["window"]))))["name"] == "m"
