"""GET /v1/rollout: what is meant to serve, and who has it."""

from sqlalchemy import text

from store import blobs, workers
from store.scorers import rollout
from store.scorers.serving import Alias
from tests.conftest import Api, problem
from tests.support.registry import activate, add_standin


def test_each_live_worker_is_shown_with_what_it_has(api: Api) -> None:
    files = blobs.connect(api.settings)
    one, two = (add_standin(api.database, files, version) for version in "12")
    activate(api.database, two)
    activate(api.database, one, "model:bundled", alias=Alias.CANARY, percent=5)
    activate(api.database, one, "tenant:ten_other")
    with api.database.session() as session:
        for worker in ("wrk_a", "wrk_b", "wrk_c", "wrk_old"):
            workers.register(session, worker, "here", "cpu")
        rollout.report(session, "wrk_a", "namm@2", "sha")
        rollout.report(session, "wrk_b", "namm@1", "sha-1")
        rollout.report(session, "wrk_b", "namm@2", "sha", error="no such blob")
        rollout.report(session, "wrk_old", "namm@2", "sha")
        session.execute(text("UPDATE workers SET heartbeat_at = '2020-01-01' WHERE id = 'wrk_old'"))
    with api.client() as client:
        found = {one["scope"]: one for one in client.get("/v1/rollout").json()["data"]}
    assert set(found) == {"global", "model:bundled"}, "other tenants' scopes are not shown"
    everywhere = found["global"]
    assert (everywhere["desired"], everywhere["alias"], everywhere["summary"]) == (
        "namm@2",
        "stable",
        "1 of 4",
    )
    states = {worker["worker_id"]: worker for worker in everywhere["workers"]}
    assert {key: worker["scorer"] for key, worker in states.items()} == {
        "wrk_a": "namm@2",
        "wrk_b": "namm@1",
        "wrk_c": None,
        "wrk_test": None,
    }
    assert states["wrk_a"]["age_seconds"] >= 0
    assert {worker["host"] for worker in states.values()} == {"here"}
    assert "admins see the reason" in states["wrk_b"]["error"]
    assert (found["model:bundled"]["summary"], found["model:bundled"]["alias"]) == ("0 of 1", "canary")
    with api.client(api.new_key(admin=True)) as client:
        for_admins = {one["scope"]: one for one in client.get("/v1/rollout").json()["data"]}
    assert set(for_admins) == {"global", "model:bundled", "tenant:ten_other"}
    assert "no such blob" in [worker["error"] for worker in for_admins["global"]["workers"]]


def test_a_version_that_is_loaded_after_a_failure_begins_its_age_anew(api: Api) -> None:
    files = blobs.connect(api.settings)
    activate(api.database, add_standin(api.database, files, "1"))
    with api.database.session() as session:
        rollout.report(session, "wrk_test", "namm@1", "sha", error="gone")
        session.execute(text("UPDATE worker_scorers SET loaded_at = now() - interval '1 day'"))
        rollout.report(session, "wrk_test", "namm@1", "sha")
    with api.database.session() as session:
        [found] = rollout.rollout(session, 60)
    [state] = found.workers
    assert (found.ready, state.error) == (1, None)
    assert state.age_seconds is not None
    assert state.age_seconds < 3600


def test_models_say_which_workers_serve_them(api: Api) -> None:
    with api.client() as client:
        [model] = client.get("/v1/models").json()["data"]
    assert [(worker["id"], worker["revision"]) for worker in model["workers"]] == [("wrk_test", "r1")]
    assert model["workers"][0]["loaded_at"]


def test_a_key_is_needed(api: Api) -> None:
    with api.client("") as client:
        problem(client.get("/v1/rollout"), 401, "api_key_missing")
