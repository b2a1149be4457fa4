"""Schedules over real HTTP and on the command line, with the scheduler's own loop beside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from sqlalchemy import func, insert, text
from typer.testing import CliRunner

from api.schedules.schemas import ScheduleCreate
from palimpsest.cli import app
from store.tables.billing import Bill
from store.tables.collections import Collection
from store.tenants import DEFAULT_TENANT
from tests.conftest import Api, problem
from worker.loops.scheduler import schedule_once

COLLECTION = "col_00000000000000000000000001"


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


@pytest.fixture
def asked(api: Api, client: httpx.Client) -> dict[str, Any]:
    """The body of a schedule of a job."""
    document = client.post("/v1/documents", content=b"A text.").json()["id"]
    job = {"document_id": document, "questions": ["Who?"], "policy": "window", "metadata": {"a": "b"}}
    return {"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "job": job}


@pytest.fixture
def bulk(api: Api) -> dict[str, Any]:
    """The body of a schedule of a bulk job."""
    with api.database.session() as session:
        session.add(Collection(id=COLLECTION, tenant_id=DEFAULT_TENANT, name="papers"))
    job = {"task": "summarize", "points": 3, "policy": "window"}
    return {"name": "weekly", "cron": "0 6 * * MON", "bulk": {"collection": "papers", "job": job}}


def tick(api: Api, statement: str = "SELECT 1") -> None:
    with api.database.session() as session:
        session.execute(text(statement))
    schedule_once(api.database, api.settings)


COME = "UPDATE schedules SET next_at = now() - interval '1 second'"


def test_a_schedule_is_made_shown_listed_changed_and_deleted(
    api: Api, client: httpx.Client, asked: dict[str, Any], bulk: dict[str, Any]
) -> None:
    response = client.post("/v1/schedules", json=asked)
    assert response.status_code == 201, response.text
    made = response.json()
    path = f"/v1/schedules/{made['id']}"
    assert response.headers["location"] == path
    assert (made["overlap"], made["catch_up_seconds"], made["paused_at"]) == ("skip", 3600, None)
    assert made["job"].items() >= asked["job"].items()
    assert client.get(path).json() == made
    second = client.post("/v1/schedules", json=bulk).json()
    assert second["bulk"]["collection"] == COLLECTION
    assert second["bulk"]["job"].items() >= bulk["bulk"]["job"].items()
    page = client.get("/v1/schedules", params={"limit": 1}).json()
    assert (page["data"], page["has_more"]) == ([second], True)
    page = client.get("/v1/schedules", params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert page == {"data": [made], "has_more": False, "next_cursor": None}
    problem(client.get("/v1/schedules", params={"cursor": "x"}), 422, "invalid_cursor", "cursor")
    # What is shown can be sent again, and the other kind of work may take its place.
    for one in (made, second):
        again = {name: one[name] for name in ScheduleCreate.model_fields}
        changed = client.put(f"/v1/schedules/{one['id']}", json=again).json()
        assert changed | {"updated_at": one["updated_at"]} == one
    changed = client.put(path, json={**asked, "job": None, "bulk": second["bulk"], "overlap": "queue"}).json()
    assert (changed["job"], changed["bulk"], changed["overlap"]) == (None, second["bulk"], "queue")
    problem(client.put(path, json={**asked, "name": "weekly"}), 409, "schedule_exists", "name")
    assert client.delete(path).status_code == 204
    for gone in (client.get(path), client.delete(path), client.put(path, json=asked)):
        problem(gone, 404, "not_found")


def test_a_dry_run_checks_and_keeps_nothing(client: httpx.Client, asked: dict[str, Any]) -> None:
    response = client.post("/v1/schedules", params={"dry_run": True}, json=asked)
    assert response.status_code == 200
    assert response.json()["next_at"]
    assert client.get("/v1/schedules").json()["data"] == []
    bad = {**asked, "cron": "often"}
    problem(client.post("/v1/schedules", params={"dry_run": True}, json=bad), 422, "cron_invalid", "cron")


JOB = {"document_id": "doc_06f3k2v5r8c4x1m7d9a0b2e6g8", "questions": ["Who?"]}
REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"name": " "}, 422, "invalid_request", "name"),
    ({"name": "x" * 101}, 422, "invalid_request", "name"),
    ({"overlap": "panic"}, 422, "invalid_request", "overlap"),
    ({"catch_up_seconds": -1}, 422, "invalid_request", "catch_up_seconds"),
    ({"jitter_seconds": 86_401}, 422, "invalid_request", "jitter_seconds"),
    ({"max_failures": 0}, 422, "invalid_request", "max_failures"),
    ({"job": None}, 422, "invalid_request", "body"),
    ({"bulk": {"collection": "a", "job": {"task": "summarize"}}}, 422, "invalid_request", "body"),
    ({"job": {**JOB, "deadline": 60}}, 422, "invalid_request", "job.deadline"),
    ({"job": {**JOB, "metadata": {"schedule_id": "sch_mine"}}}, 422, "invalid_request", "job.metadata"),
    ({"timezone": "Mars/Olympus"}, 422, "unknown_timezone", "timezone"),
    ({"job": JOB}, 404, "not_found", None),
    ({"job": None, "bulk": {"collection": "a", "job": {"task": "summarize"}}}, 404, "not_found", None),
]


@pytest.mark.parametrize(("changes", "status", "code", "field"), REFUSED)
def test_what_is_no_schedule_is_refused(
    refusing_api: Api, changes: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    body = {"name": "a", "cron": "0 6 * * *", "job": JOB, **changes}
    with refusing_api.client() as client:
        problem(client.post("/v1/schedules", json=body), status, code, field)
        assert client.get("/v1/schedules").json()["data"] == []


@pytest.mark.parametrize("cron", ["often", "0 0 6 * * *", "0 0 30 2 *", "61 * * * *"])
def test_what_is_no_cron_expression_is_refused(
    client: httpx.Client, asked: dict[str, Any], cron: str
) -> None:
    problem(client.post("/v1/schedules", json={**asked, "cron": cron}), 422, "cron_invalid", "cron")


def test_work_that_cannot_be_had_is_refused_at_once(client: httpx.Client, asked: dict[str, Any]) -> None:
    for changes, code in (({"model": "huge"}, "unknown_model"), ({"policy": "none"}, "unknown_policy")):
        body = {**asked, "job": {**asked["job"], **changes}}
        problem(client.post("/v1/schedules", json=body), 422, code)


def test_every_documented_example_is_a_schedule() -> None:
    examples = ScheduleCreate.model_json_schema()["examples"]
    assert len([ScheduleCreate.model_validate(example).new() for example in examples]) == 2


def test_the_preview_shows_both_clocks(client: httpx.Client, asked: dict[str, Any]) -> None:
    made = client.post("/v1/schedules", json=asked).json()
    shown = client.get(f"/v1/schedules/{made['id']}/preview", params={"count": 3}).json()
    assert (shown["timezone"], len(shown["data"])) == ("Europe/Berlin", 3)
    for one in shown["data"]:
        assert one["local"].endswith(one["utc_offset"])
        assert one["fires_at"] == one["utc"]
    assert shown["data"][0]["utc"] == made["next_at"]


def test_runs_are_told_with_reason_and_cost(api: Api, client: httpx.Client, asked: dict[str, Any]) -> None:
    made = client.post("/v1/schedules", json=asked).json()
    path = f"/v1/schedules/{made['id']}"
    tick(api, COME)
    [job] = client.get("/v1/jobs").json()["data"]
    assert job["metadata"] == {"a": "b", "schedule_id": made["id"]}
    response = client.post(f"{path}/run")
    assert (response.status_code, response.json()["state"], response.json()["manual"]) == (
        202,
        "waiting",
        True,
    )
    with api.database.session() as session:
        terms = {"outcome": "succeeded", "currency": "USD", "price_book_id": "prc_placeholder"}
        terms |= {"jobs": 1, "attempts": 1, "tenant_id": DEFAULT_TENANT, "booked_at": func.now()}
        session.execute(insert(Bill).values(job_id=job["id"], attempt=1, cost="0.50", **terms))
    tick(api)
    page = client.get(f"{path}/runs", params={"limit": 1}).json()
    [skipped] = page["data"]
    assert (skipped["state"], skipped["reason"]["code"], skipped["cost"]) == ("skipped", "overlap", [])
    page = client.get(f"{path}/runs", params={"limit": 1, "cursor": page["next_cursor"]}).json()
    [running] = page["data"]
    assert (running["state"], running["job_id"], page["has_more"]) == ("running", job["id"], False)
    assert running["cost"] == [{"amount": "0.5", "currency": "USD"}]
    paused = client.post(f"{path}/pause").json()
    assert paused["next_at"] is None
    assert client.post(f"{path}/pause").json() == paused
    resumed = client.post(f"{path}/resume").json()
    assert (resumed["next_at"], resumed["paused_at"]) == (made["next_at"], None)


def palimpsest(api: Api, *arguments: str) -> Result:
    environment = {"PALIMPSEST_URL": api.url, "PALIMPSEST_API_KEY": api.key, "COLUMNS": "80"}
    return CliRunner().invoke(app, ("schedule", *arguments), env=environment)


def test_the_command_line_does_all_of_it(api: Api, bulk: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "contract.txt"
    file.write_text("A contract.")
    what = ("--ask", "Who?", "--policy", "window", "--timezone", "Europe/Berlin", "--overlap", "queue")
    dry = palimpsest(api, "create", "nightly", "30 2 * * *", "--file", str(file), *what, "--dry-run")
    assert "no schedule was created" in dry.output
    made = palimpsest(api, "create", "nightly", "30 2 * * *", "--file", str(file), *what)
    assert made.exit_code == 0, made.output
    schedule = made.output.strip()
    bulk_options = (
        "--collection",
        "papers",
        "--summarize",
        *("--points", "3", "--words", "90", "--ask", "Who?"),
        "--policy",
        "window",
        "--only-changed",
        "--no-digest",
    )
    second = palimpsest(api, "create", "weekly", "0 6 * * MON", *bulk_options)
    assert second.exit_code == 0, second.output
    shown = palimpsest(api, "show", second.output.strip(), "--json").output
    asked = json.loads(shown)["bulk"]["job"]
    assert (asked["points"], asked["words"], asked["questions"]) == (3, 90, ["Who?"])
    listed = palimpsest(api, "list").output
    for word in (schedule, "30 2 * * *", "Europe/Berlin", "ask doc_", f"summarize collection {COLLECTION}"):
        assert word in listed
    assert palimpsest(api, "pause", schedule).exit_code == 0
    shown = palimpsest(api, "show", schedule).output
    assert "Paused by hand." in shown
    assert "runs next at" in palimpsest(api, "resume", schedule).output
    assert palimpsest(api, "preview", schedule, "--count", "3").output.count("02:30") >= 3
    assert palimpsest(api, "run", schedule).output.startswith("run_")
    tick(api)
    history = palimpsest(api, "history", schedule).output
    assert "manual" in history
    assert "running" in history
    assert palimpsest(api, "delete", schedule).exit_code == 0
    assert schedule not in palimpsest(api, "list").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "sch_none"),
        ("create", "a", "0 6 * * *", "--collection", "none", "--summarize"),
        ("create", "a", "0 6 * * *", "--collection", "none"),
        ("create", "a", "0 6 * * *", "--summarize"),
    ],
)
def test_a_refusal_is_told_and_fails(api: Api, arguments: tuple[str, ...]) -> None:
    ended = palimpsest(api, *arguments)
    assert ended.exit_code in (1, 2)
    assert ended.exception is None or isinstance(ended.exception, SystemExit)


def test_a_folder_that_the_service_may_not_read_is_refused_on_the_command_line(api: Api) -> None:
    options = ("--source", "s3://contracts/2027", "--glob", "**/*.txt", "--summarize")
    ended = palimpsest(api, "create", "morning", "0 6 * * *", *options)
    assert (ended.exit_code, "source_not_allowed" in ended.output) == (1, True), ended.output


def test_a_schedule_is_made_from_a_file(api: Api, asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(asked))
    made = palimpsest(api, "create", "--from", str(file))
    assert made.exit_code == 0, made.output
    shown = json.loads(palimpsest(api, "show", made.output.strip(), "--json").output)
    assert {name: shown[name] for name in ("name", "cron", "timezone")}.items() <= asked.items()
    assert shown["job"].items() >= asked["job"].items()
    options = ("--ask", "When?", "--overlap", "queue", "--priority", "7")
    second = palimpsest(api, "create", "hourly", "5 * * * *", "--from", str(file), *options)
    assert second.exit_code == 0, second.output
    shown = json.loads(palimpsest(api, "show", "hourly", "--json").output)
    assert (shown["cron"], shown["overlap"], shown["timezone"]) == ("5 * * * *", "queue", "Europe/Berlin")
    assert shown["job"].items() >= (asked["job"] | {"questions": ["When?"], "priority": 7}).items()
    file.write_text("[]")
    refused = palimpsest(api, "create", "--from", str(file))
    assert (refused.exit_code, "not contain a JSON object" in " ".join(refused.output.split())) == (1, True)
