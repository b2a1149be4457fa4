"""Redis loses everything, or says everything a hundred times: no job is lost, none runs twice."""

import redis
from kombu import Queue
from sqlalchemy import text

from store.settings import Settings
from tests.chaos.conftest import Service, wait_for
from worker.app_factory import make_app
from worker.names import RUN_JOBS


def flush(service: Service) -> None:
    with redis.Redis.from_url(service.environment["REDIS_URL"]) as client:
        client.flushall()


def all_hinted(service: Service) -> bool:
    with service.database.session() as session:
        return bool(session.scalar(text("SELECT bool_and(hinted_at IS NOT NULL) FROM jobs")))


def test_queued_jobs_survive_the_loss_of_their_hints(service: Service) -> None:
    service.loops()
    waiting = [service.submit(prompts=[f"Who {n}?"]) for n in range(3)]
    wait_for("the relay to publish", lambda: all_hinted(service))
    flush(service)
    service.worker("one")
    assert [service.until_ended(job).state for job in waiting] == ["succeeded"] * 3


def test_loss_under_way_does_not_deafen_relay_or_worker(service: Service) -> None:
    service.worker("one")
    service.loops()
    assert service.until_ended(service.submit()).state == "succeeded"
    flush(service)
    assert service.until_ended(service.submit()).state == "succeeded"


def test_a_hundred_hints_for_one_job_are_one_run(service: Service) -> None:
    config = Settings(redis_url=service.environment["REDIS_URL"], model_name="small")
    celery = make_app(config)
    job = service.submit()
    for _ in range(100):
        celery.send_task(RUN_JOBS, args=["jobs.small"], queue=Queue("jobs.small"))
    celery.close()
    service.worker("one")
    service.worker("two")
    done = service.until_ended(job)
    assert (done.state, done.attempt) == ("succeeded", 1)
    with redis.Redis.from_url(service.environment["REDIS_URL"]) as client:
        wait_for("all hints to be heard", lambda: client.llen("palimpsest:jobs.small") == 0)
    assert service.look(job).attempt == 1
