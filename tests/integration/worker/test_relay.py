"""From the outbox to a Celery queue, over real Postgres and real Redis."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from store import outbox
from store.database import Database
from store.settings import Settings
from worker.app_factory import make_app
from worker.loops.relay import Publish, publisher, relay_once
from worker.loops.run_forever import forever


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def publish(redis_url: str) -> Iterator[Publish]:
    celery = make_app(Settings(redis_url=redis_url, model_name="small"))
    yield publisher(celery)
    celery.close()


def add(db: Database, *models: str) -> None:
    with db.session() as session:
        for model in models:
            outbox.add_hint(session, model)


def waiting(redis_url: str, queue: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return int(client.llen(f"palimpsest:{queue}"))


def test_hints_reach_the_queue_of_their_model_and_leave_the_outbox(
    db: Database, publish: Publish, redis_url: str
) -> None:
    add(db, "small", "small", "meta/large")
    assert relay_once(db, publish) == 3
    assert relay_once(db, publish) == 0
    assert (waiting(redis_url, "jobs.small"), waiting(redis_url, "jobs.meta_large")) == (2, 1)


def test_hints_for_scorers_reach_the_queue_that_every_worker_hears(
    db: Database, publish: Publish, redis_url: str
) -> None:
    add(db, "small")
    with db.session() as session:
        outbox.add_scorer_hint(session)
    assert relay_once(db, publish) == 2
    with redis.Redis.from_url(redis_url) as client:
        tasks = {
            queue: json.loads(client.lindex(f"palimpsest:{queue}", 0))["headers"]["task"]  # type: ignore[arg-type]
            for queue in ("jobs.small", "scorers")
        }
    assert tasks == {"jobs.small": "drain", "scorers": "verify"}
    for model in ("small", "large"):
        heard = make_app(Settings(redis_url=redis_url, model_name=model)).conf.task_queues
        assert "scorers" in [queue.name for queue in heard]


def test_broker_that_is_away_costs_no_hint(db: Database) -> None:
    add(db, "small")
    celery = make_app(Settings(redis_url="unix:///nowhere/redis.sock", model_name="small"))
    with pytest.raises(OperationalError):
        relay_once(db, publisher(celery))
    celery.close()
    sent: list[Any] = []
    assert relay_once(db, sent.extend) == 1
    assert [hint.queue for hint in sent] == ["jobs.small"]


def test_loop_outlives_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    monkeypatch.setattr("worker.loops.run_forever.signal.signal", lambda *_: None)
    outcomes: list[Callable[[], None]] = [_away, _away, _fine, _away, _stop]
    forever("test", lambda: outcomes.pop(0)())
    assert pauses == [1.0, 2.0, 1.0]


def _away() -> None:
    raise ConnectionRefusedError


def _fine() -> None:
    return


def _stop() -> None:
    raise KeyboardInterrupt


def test_only_ids_and_names_travel(db: Database) -> None:
    add(db, "small")
    seen: list[outbox.Hint] = []

    def look(hints: Sequence[outbox.Hint]) -> None:
        seen.extend(hints)

    relay_once(db, look)
    assert seen[0]._asdict().keys() == {"id", "queue", "job_id"}
