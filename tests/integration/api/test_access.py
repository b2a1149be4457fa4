"""Who may see what, and that every error is a problem; generated from the OpenAPI: new routes are covered."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import text

from api.app import create_app
from store.settings import Settings
from store.tenants import api_keys
from tests.conftest import Api, problem

PUBLIC = {"/healthz", "/readyz"}


def operations() -> list[tuple[str, str]]:
    """Every method and path the API documents."""
    settings = Settings.model_validate(
        {"DATABASE_URL": "postgresql://nowhere/none", "data_dir": "/nonexistent"}
    )
    paths: dict[str, Any] = create_app(settings).openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


OPERATIONS = operations()
# Scorers are the service's, not a tenant's: who may do what with them is in test_scorers.
# Templates go by names, which every tenant may give as it likes: test_bulk.
OF_A_RESOURCE = [
    (method, path)
    for method, path in OPERATIONS
    if "{" in path and "scorers" not in path and "templates" not in path
]
WITH_A_KEY = [(method, path) for method, path in OPERATIONS if path not in PUBLIC]


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def test_the_expected_routes_are_there() -> None:
    assert set(OPERATIONS) == {
        ("POST", "/v1/documents"),
        ("GET", "/v1/documents/{document_id}"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/{job_id}"),
        ("GET", "/v1/jobs/{job_id}/result"),
        ("GET", "/v1/jobs/{job_id}/cost"),
        ("POST", "/v1/jobs/{job_id}/cancel"),
        ("GET", "/v1/templates"),
        ("POST", "/v1/templates/{name}"),
        ("POST", "/v1/collections"),
        ("GET", "/v1/collections"),
        ("GET", "/v1/collections/{collection}"),
        ("DELETE", "/v1/collections/{collection}"),
        ("POST", "/v1/collections/{collection}/refresh"),
        ("GET", "/v1/collections/{collection}/documents"),
        ("POST", "/v1/collections/{collection}/documents"),
        ("DELETE", "/v1/collections/{collection}/documents"),
        ("POST", "/v1/bulk"),
        ("GET", "/v1/bulk"),
        ("GET", "/v1/bulk/{bulk_id}"),
        ("GET", "/v1/bulk/{bulk_id}/documents"),
        ("GET", "/v1/bulk/{bulk_id}/bundle/{name}"),
        ("POST", "/v1/bulk/{bulk_id}/cancel"),
        ("POST", "/v1/bulk/{bulk_id}/retry"),
        ("GET", "/v1/usage"),
        ("GET", "/v1/costs"),
        ("GET", "/v1/savings"),
        ("GET", "/v1/exports/focus"),
        ("POST", "/v1/budgets"),
        ("GET", "/v1/budgets"),
        ("GET", "/v1/budgets/{budget_id}"),
        ("DELETE", "/v1/budgets/{budget_id}"),
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("GET", "/v1/webhooks/{webhook_id}"),
        ("DELETE", "/v1/webhooks/{webhook_id}"),
        ("POST", "/v1/webhooks/{webhook_id}/rotate"),
        ("POST", "/v1/webhooks/{webhook_id}/enable"),
        ("POST", "/v1/webhooks/{webhook_id}/test"),
        ("GET", "/v1/webhooks/{webhook_id}/deliveries"),
        ("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"),
        ("POST", "/v1/schedules"),
        ("GET", "/v1/schedules"),
        ("GET", "/v1/schedules/{schedule_id}"),
        ("PUT", "/v1/schedules/{schedule_id}"),
        ("DELETE", "/v1/schedules/{schedule_id}"),
        ("POST", "/v1/schedules/{schedule_id}/pause"),
        ("POST", "/v1/schedules/{schedule_id}/resume"),
        ("POST", "/v1/schedules/{schedule_id}/run"),
        ("GET", "/v1/schedules/{schedule_id}/preview"),
        ("GET", "/v1/schedules/{schedule_id}/runs"),
        ("GET", "/v1/scorers"),
        ("GET", "/v1/scorers/{name}/versions"),
        ("POST", "/v1/scorers/{name}/versions"),
        ("GET", "/v1/scorers/{name}/versions/{version}"),
        ("GET", "/v1/scorers/{name}/versions/{version}/files/{file}"),
        ("GET", "/v1/scorers/{name}/versions/{version}/diff"),
        ("PUT", "/v1/scorers/{name}/versions/{version}/evaluation"),
        ("GET", "/v1/scorers/{name}/activations"),
        ("POST", "/v1/scorers/{name}/activations"),
        ("DELETE", "/v1/scorers/{name}/activations/{scope}/{alias}"),
        ("POST", "/v1/scorers/{name}/rollback"),
        ("GET", "/v1/scorers/{name}/outcomes"),
        ("GET", "/v1/rollout"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/models"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
    }


def test_a_second_tenant_sees_nothing_of_the_first(api: Api, client: httpx.Client) -> None:
    document = client.post("/v1/documents", content=b"A secret.").json()
    job = client.post("/v1/jobs", json={"document_id": document["id"], "questions": ["Q"]}).json()
    budget = client.post("/v1/budgets", json={"amount": "5", "period": "day", "action": "notify"}).json()
    webhook = client.post("/v1/webhooks", json={"url": "https://example.com/hook"}).json()
    delivery = client.post(f"/v1/webhooks/{webhook['id']}/test").json()
    member = {"documents": [{"document_id": document["id"], "path": "secret.txt"}]}
    collection = client.post("/v1/collections", json={"name": "mine"}).json()
    work = {"document_ids": [document["id"]], "job": {"task": "summarize"}}
    bulk = client.post("/v1/bulk", json=work).json()
    bundle = Path(api.settings.blobs) / "bundles" / "digest.md"
    bundle.parent.mkdir()
    bundle.write_text("A secret.")
    body = {"name": "a", "cron": "0 6 * * *", "job": {"document_id": document["id"], "questions": ["Q"]}}
    schedule = client.post("/v1/schedules", json=body).json()
    known = {
        "collection": collection["id"],
        "bulk_id": bulk["id"],
        "name": "digest.md",
        "document_id": document["id"],
        "job_id": job["id"],
        "budget_id": budget["id"],
        "webhook_id": webhook["id"],
        "delivery_id": delivery["id"],
        "schedule_id": schedule["id"],
    }
    arguments: dict[tuple[str, str], dict[str, Any]] = {
        ("PUT", "/v1/schedules/{schedule_id}"): {"json": body},
        ("POST", "/v1/collections/{collection}/documents"): {"json": member},
        ("DELETE", "/v1/collections/{collection}/documents"): {"params": {"path": "secret.txt"}},
    }
    with api.database.session() as session:
        session.execute(text("UPDATE bulks SET state = 'failed', bundle_key = 'bundles'"))
        session.execute(
            text(
                "INSERT INTO results (job_id, tenant_id, attempt, complete, answers) "
                "SELECT id, tenant_id, 1, true, '[]' FROM jobs"
            )
        )
    with api.client(api.new_key("ten_other")) as stranger:
        # What is deleted has to be there for the other routes first.
        for method, path in sorted(OF_A_RESOURCE, key=_deletes):
            more = arguments.get((method, path), {})
            # KeyError here: a new kind of resource, which this test has to learn to make.
            address = re.sub(r"{(\w+)}", lambda found: known[found[1]], path)
            theirs = stranger.request(method, address, **more)
            problem(theirs, 404, "not_found")
            nowhere = re.sub(r"_[0-9a-z]{26}", "_" + "0" * 26, address)
            nothing = stranger.request(method, nowhere, **more)
            # Not a hint that the first one exists: but for the address and the id, the answers are the same.
            assert _without_ids(theirs.text) == _without_ids(nothing.text)
            mine = client.request(method, address, **more)
            assert mine.is_success, (method, path, mine.text)
        for path in ("/v1/jobs", "/v1/collections", "/v1/bulk"):
            assert stranger.get(path).json()["data"] == []
        for named in ({"collection": "mine"}, {"document_ids": [document["id"]]}):
            theirs = stranger.post("/v1/bulk", json={**named, "job": {"task": "summarize"}})
            problem(theirs, 404, "not_found")
        theirs = stranger.post("/v1/jobs", json={"document_id": document["id"], "questions": ["Q"]})
        problem(theirs, 404, "not_found")


def _deletes(operation: tuple[str, str]) -> tuple[bool, int]:
    """Last, and what is in something before that itself."""
    return operation[0] == "DELETE", -len(operation[1])


def _without_ids(body: str) -> str:
    return re.sub(r"(doc|job|bud|whk|dlv|col|bulk|sch|req)_[0-9a-z]+", "", body)


@pytest.mark.parametrize(("method", "path"), WITH_A_KEY)
def test_every_route_wants_a_valid_key(refusing_api: Api, method: str, path: str) -> None:
    address = re.sub(r"{\w+}", "x_0", path)
    key = refusing_api.key
    unknown = api_keys.PREFIX + "0" * api_keys.RANDOM_CHARACTERS
    unknown += api_keys._checksum(unknown)
    for sent, code in (
        ("", "api_key_missing"),
        (key[:-1] + ("A" if key[-1] != "A" else "B"), "api_key_malformed"),
        ("nonsense", "api_key_malformed"),
        ("~" * 10_000, "api_key_malformed"),
        (unknown, "api_key_invalid"),
    ):
        with refusing_api.client(sent) as client:
            response = client.request(method, address)
        problem(response, 401, code, "Authorization")
        assert response.headers["www-authenticate"] == "Bearer"
    with httpx.Client(base_url=refusing_api.url, headers={"authorization": f"Basic {key}"}) as client:
        problem(client.request(method, address), 401, "api_key_missing")


def test_every_route_refuses_a_parameter_that_it_does_not_have(refusing_api: Api) -> None:
    with refusing_api.client(refusing_api.new_key(admin=True)) as client:
        for method, path in WITH_A_KEY:
            response = client.request(method, re.sub(r"{\w+}", "x", path), params={"nonsense": "1"})
            problem(response, 422, "unknown_parameter", "nonsense")


def test_a_revoked_and_an_expired_key_are_refused(api: Api) -> None:
    for change in ("revoked_at = now()", "revoked_at = NULL, expires_at = now()"):
        with api.database.session() as session:
            session.execute(text(f"UPDATE api_keys SET {change}"))
        with api.client() as client:
            problem(client.get("/v1/jobs"), 401, "api_key_invalid")


def test_no_key_is_stored_readably(api: Api) -> None:
    with api.database.session() as session:
        stored = str(session.execute(text("SELECT api_keys::text FROM api_keys")).scalars().all())
    assert api.key not in stored
    assert api.key[8:-4] not in stored


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "no_such_route"),
        ("GET", "/v2/jobs", 404, "no_such_route"),
        ("GET", "/v1/jobs/%00/result/x", 404, "no_such_route"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PUT", "/v1/documents", 405, "method_not_allowed"),
        ("GET", "/v1/jobs/%00", 404, "no_such_route"),
        ("GET", "/v1/jobs/" + "x" * 5000, 404, "not_found"),
        ("GET", "/v1/documents/%F0%9F%8C%8D", 404, "not_found"),
    ],
)
def test_an_address_that_leads_nowhere(
    refusing_api: Api, method: str, path: str, status: int, code: str
) -> None:
    with refusing_api.client() as client:
        response = client.request(method, path)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    if status == 405:
        assert response.headers["allow"]


def test_an_unforeseen_error_is_a_problem_without_its_details(api: Api, client: httpx.Client) -> None:
    with api.database.session() as session:
        session.execute(text("ALTER TABLE jobs RENAME COLUMN policy TO gone"))
    response = client.get("/v1/jobs")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["code"] == "internal_error"
    assert body["request_id"] == response.headers["x-request-id"]
    assert "gone" not in response.text
    assert "SELECT" not in response.text


def test_a_database_that_is_away_is_told(api: Api, client: httpx.Client) -> None:
    api.database.engine.dispose()
    real = api.database.engine.url
    client.get("/healthz")
    with api.database.engine.connect() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
    api.database.engine.dispose()
    administrator = str(real.set(drivername="postgresql", database="postgres").render_as_string())
    with psycopg.connect(administrator, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[arg-type]
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        try:
            response = client.get("/v1/jobs")
            problem(response, 503, "database_unavailable")
            assert response.headers["retry-after"]
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["checks"]["postgres"]["ok"] is False
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')  # type: ignore[arg-type]
    assert client.get("/v1/jobs").status_code == 200


def test_readiness_looks_at_each_part(api: Api, client: httpx.Client) -> None:
    with api.client("") as anyone:
        assert anyone.get("/healthz").json() == {"status": "ok"}
        ready = anyone.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {
        name: {"ok": True, "detail": None} for name in ("postgres", "redis", "blobs", "worker")
    }
    with api.database.session() as session:
        session.execute(text("UPDATE worker_models SET error = 'no such file'"))
    ready = client.get("/readyz")
    assert "no worker could load its model" in ready.json()["checks"]["worker"]["detail"]
    assert "no such file" not in ready.text  # nobody has to have a key to see this page
    assert client.get("/v1/models").json()["data"][0]["errors"] == ["no such file"]
    with api.database.session() as session:
        session.execute(text("UPDATE workers SET heartbeat_at = now() - interval '1 hour'"))
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"]["worker"]["detail"] == "no live worker serves a model"


def test_models_are_listed_with_the_limits(api: Api, client: httpx.Client) -> None:
    found = client.get("/v1/models").json()
    [model] = found["data"]
    assert model["name"] == "bundled"
    assert model["window"] == 2048
    assert model["workers_live"] == 1
    assert model["policies"] == ["namm-key", "window"]
    assert [scorer["name"] for scorer in model["scorers"]] == ["namm-key"]
    assert found["max_document_bytes"] == api.settings.max_upload_bytes
