"""Webhooks over real HTTP: from a request to the API to a verified message, and the command line."""

import re
import runpy
import threading
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from sqlalchemy import text
from standardwebhooks import Webhook
from typer.testing import CliRunner

from palimpsest.cli import app
from store.webhooks import event_types
from tests.conftest import Api, problem
from tests.support import REPOSITORY
from tests.support.notifying import notify_once
from tests.support.receiver import Receiver, receiver

GUIDE = (REPOSITORY / "docs" / "how-to" / "receive-webhooks.md").read_text()


@pytest.fixture
def client(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr(api.settings, "webhook_allow_loopback", True)
    with api.client() as client:
        yield client


@pytest.fixture
def found() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def add(client: httpx.Client, url: str, **more: Any) -> dict[str, Any]:
    response = client.post("/v1/webhooks", json={"url": url, **more})
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/v1/webhooks/{response.json()['id']}"
    return response.json()


def end_a_job(client: httpx.Client) -> str:
    asked = {"text": "A text.", "questions": ["Who?"]}
    job: str = client.post("/v1/jobs", json=asked).json()["id"]
    assert client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    return job


def test_a_job_that_ends_is_told_signed_and_logged(api: Api, client: httpx.Client, found: Receiver) -> None:
    made = add(client, found.url, events=["job.*"], description="mine")
    path = f"/v1/webhooks/{made['id']}"
    job = end_a_job(client)
    assert notify_once(api.database, api.settings) == 1
    [came] = found.came
    message = Webhook(made["secret"]).verify(came.body, came.headers)
    assert message["type"] == "job.cancelled"
    assert message["data"] == {"job": job, "state": "cancelled", "attempt": 0, "error": "cancelled"}
    [delivery] = client.get(f"{path}/deliveries").json()["data"]
    assert (delivery["state"], delivery["message_id"]) == ("delivered", came.headers["webhook-id"])
    assert delivery["payload"] == message
    assert [entry["status"] for entry in delivery["log"]] == [200]
    again = client.post(f"{path}/deliveries/{delivery['id']}/redeliver")
    assert again.status_code == 202
    assert again.json()["state"] == "pending"
    notify_once(api.database, api.settings)
    assert found.ids() == [delivery["message_id"]] * 2


def test_the_secret_is_shown_twice_only_and_changes_by_rotation(
    api: Api, client: httpx.Client, found: Receiver
) -> None:
    made = add(client, found.url)
    path = f"/v1/webhooks/{made['id']}"
    shown = client.get(path).json()
    assert "secret" not in shown
    assert {**shown, "secret": made["secret"]} == made
    assert client.get("/v1/webhooks").json() == {"data": [shown]}
    rotated = client.post(f"{path}/rotate").json()
    assert rotated["secret"] != made["secret"]
    assert client.post(f"{path}/test").status_code == 202
    notify_once(api.database, api.settings)
    [came] = found.came
    for secret in (made["secret"], rotated["secret"]):
        assert Webhook(secret).verify(came.body, came.headers)["type"] == "webhook.test"
    assert client.delete(path).status_code == 204
    problem(client.get(path), 404, "not_found")
    with api.database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM webhook_deliveries")) == 0


def test_deliveries_are_paged_and_filtered(api: Api, client: httpx.Client, found: Receiver) -> None:
    made = add(client, found.url)
    path = f"/v1/webhooks/{made['id']}/deliveries"
    sent = [client.post(f"/v1/webhooks/{made['id']}/test").json()["id"] for _ in range(3)]
    seen, cursor = [], None
    for _ in range(2):
        page = client.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [one["id"] for one in page["data"]]
        cursor = page["next_cursor"]
    assert (seen, cursor, page["has_more"]) == (sent[::-1], None, False)
    notify_once(api.database, api.settings)
    client.post(f"/v1/webhooks/{made['id']}/test")
    states = client.get(path, params={"state": ["delivered", "failed"]}).json()["data"]
    assert {one["id"] for one in states} == set(sent)
    problem(client.get(path, params={"cursor": "nonsense"}), 422, "invalid_cursor", "cursor")
    problem(client.get(path, params={"state": "lost"}), 422, "invalid_request")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"url": "http://example.com/"}, "webhook_url_refused", "url"),
        ({"url": "https://10.0.0.1/"}, "webhook_url_refused", "url"),
        ({"url": "https://127.0.0.1/"}, "webhook_url_refused", "url"),
        ({"url": "https://user:secret@example.com/"}, "webhook_url_refused", "url"),
        ({"url": ""}, "invalid_request", "url"),
        ({"url": "https://example.com/", "events": ["job.suceeded"]}, "unknown_event", "events"),
        ({"url": "https://example.com/", "description": "a\0b"}, "invalid_request", "description"),
        ({"url": "https://example.com/", "secret": "mine"}, "invalid_request", "secret"),
    ],
)
def test_what_is_refused(refusing_api: Api, body: dict[str, Any], code: str, field: str) -> None:
    with refusing_api.client() as client:
        problem(client.post("/v1/webhooks", json=body), 422, code, field)
        assert client.get("/v1/webhooks").json() == {"data": []}


def test_a_disabled_webhook_says_so_until_it_is_enabled(
    api: Api, client: httpx.Client, found: Receiver
) -> None:
    made = add(client, found.url)
    path = f"/v1/webhooks/{made['id']}"
    delivery = client.post(f"{path}/test").json()
    found.status = 410
    notify_once(api.database, api.settings)
    assert "410" in client.get(path).json()["disabled_reason"]
    problem(client.post(f"{path}/test"), 409, "webhook_disabled")
    problem(client.post(f"{path}/deliveries/{delivery['id']}/redeliver"), 409, "webhook_disabled")
    assert client.post(f"{path}/enable").json()["disabled_at"] is None
    found.status = 200
    client.post(f"{path}/deliveries/{delivery['id']}/redeliver")
    notify_once(api.database, api.settings)
    [shown] = client.get(f"{path}/deliveries").json()["data"]
    assert [entry["status"] for entry in shown["log"]] == [410, 200]
    for _ in range(19):
        add(client, found.url)
    problem(client.post("/v1/webhooks", json={"url": found.url}), 409, "too_many_webhooks")


def test_the_receiver_of_the_guide_verifies(
    api: Api, client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    server = HTTPServer(("127.0.0.1", 0), None)  # type: ignore[arg-type]
    made = add(client, f"http://127.0.0.1:{server.server_address[1]}/")
    monkeypatch.setenv("WEBHOOK_SECRET", made["secret"])
    (tmp_path / "guide.py").write_text(code)
    loaded = runpy.run_path(str(tmp_path / "guide.py"), run_name="guide")
    server.RequestHandlerClass = loaded["Receiver"]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        job = end_a_job(client)
        notify_once(api.database, api.settings)
        forged = httpx.post(made["url"], content=b"{}", headers={"webhook-id": "msg_1"}, trust_env=False)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert forged.status_code == 401
    assert client.get(f"/v1/webhooks/{made['id']}/deliveries").json()["data"][0]["last_status"] == 204
    assert f"job.cancelled {{'job': '{job}'" in capsys.readouterr().out


def test_the_guide_names_every_event() -> None:
    table = GUIDE.split("| Type | When | `data` |")[1].split("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+\.\w+)`", line)}
    assert named == {*event_types.TYPES, event_types.TEST}


def palimpsest(api: Api, *arguments: str) -> Result:
    environment = {"PALIMPSEST_URL": api.url, "PALIMPSEST_API_KEY": api.key, "COLUMNS": "80"}
    return CliRunner().invoke(app, ["webhook", *arguments], env=environment)


def test_the_command_line(api: Api, client: httpx.Client, found: Receiver) -> None:
    made = palimpsest(api, "add", found.url, "--event", "job.*", "--description", "mine")
    assert made.exit_code == 0, made.output
    webhook, secret = made.stdout.splitlines()[:2]
    assert secret.startswith("whsec_")
    [line] = [line for line in palimpsest(api, "list").stdout.splitlines() if webhook in line]
    assert found.url in line
    assert "job.*" in line
    assert secret not in palimpsest(api, "list", "--json").stdout
    delivery = palimpsest(api, "test", webhook).stdout.strip()
    found.status = 410
    notify_once(api.database, api.settings)
    [line] = [line for line in palimpsest(api, "log", webhook).stdout.splitlines() if delivery in line]
    assert "It answered 410." in line
    assert "disabled" in palimpsest(api, "list").stdout
    refused = palimpsest(api, "redeliver", webhook, delivery)
    assert refused.exit_code == 1
    assert "webhook_disabled" in refused.output
    assert palimpsest(api, "enable", webhook).exit_code == 0
    assert palimpsest(api, "redeliver", webhook, delivery).exit_code == 0
    assert palimpsest(api, "rotate", webhook).stdout.splitlines()[1] != secret
    assert palimpsest(api, "remove", webhook).exit_code == 0
    assert webhook not in palimpsest(api, "list").stdout
    assert palimpsest(api, "add", "http://10.0.0.1/").exit_code == 1
