"""The scorer registry over real HTTP: files, evaluations, lists, the audit log, jobs that name a version."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from store.scorers.serving import Alias
from tests.conftest import Api, problem
from tests.support.scorer_files import MANIFEST, TENSORS, manifest
from tests.support.scorer_requests import activate, send, verify


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    with api.client(api.new_key(admin=True)) as client:
        yield client


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def pages(client: httpx.Client, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Every page of a list, two rows each."""
    cursor = None
    while True:
        page = client.get(path, params={"limit": 2} | query | ({"cursor": cursor} if cursor else {})).json()
        yield page
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            return


def test_files_come_with_their_hash(api: Api, client: httpx.Client) -> None:
    verify(api, "1")
    for file in ("scorer.safetensors", "manifest.json"):
        path = f"/v1/scorers/mine/versions/1/files/{file}"
        got = client.get(path)
        tag = got.headers["etag"]
        assert tag == f'"{hashlib.sha256(got.content).hexdigest()}"'
        assert client.get(path, headers={"if-none-match": tag}).status_code == 304
        assert client.get(path, headers={"if-none-match": '"0"'}).content == got.content
    assert client.get("/v1/scorers/mine/versions/1/files/scorer.safetensors").content == TENSORS
    problem(client.get("/v1/scorers/mine/versions/1/files/verdict.json"), 422, "invalid_request", "file")
    problem(client.get("/v1/scorers/mine/versions/9/files/manifest.json"), 404, "not_found")


def test_what_differs_is_listed(api: Api, client: httpx.Client) -> None:
    verify(api, "1")
    config = MANIFEST["config"] | {"gamma": 0.5}
    verify(api, "2", config=config, sha256="0" * 64, serving={"budget": 512})
    found = client.get("/v1/scorers/mine/versions/1/diff", params={"with": "2"}).json()
    assert (found["from"], found["to"], found["same_parameters"]) == ("mine@1", "mine@2", False)
    listed = {one["path"]: (one["from"], one["to"]) for one in found["manifest"]}
    expected = {"config.gamma": (MANIFEST["config"]["gamma"], 0.5), "version": ("1", "2")}
    assert listed.items() >= expected.items()
    assert "config.width" not in listed
    same = client.get("/v1/scorers/mine/versions/1/diff", params={"with": "1"}).json()
    assert (same["same_parameters"], same["manifest"]) == (True, [])


def test_an_evaluation_is_attached(api: Api, admin: httpx.Client) -> None:
    verify(api, "1")
    row = {"policy": "namm", "scorer": "mine@1", "budget": "25%", "score": 0.5}
    report: dict[str, Any] = {
        "format": 1,
        "model": {"name": "bundled"},
        "settings": {},
        "documents": {},
        "machine": {},
        "rows": [row],
    }
    path = "/v1/scorers/mine/versions/1/evaluation"
    assert admin.put(path, json=report).json()["evaluation"] == report
    assert admin.get("/v1/scorers/mine/versions/1").json()["evaluation"] == report
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    for wrong in (
        report | {"format": 2},
        report | {"rows": []},
        report | {"rows": [{"policy": "namm"}]},
        report | {"more": 1},
        {key: value for key, value in report.items() if key != "machine"},
        report | {"settings": {"a": "\0"}},
        report | {"settings": {"a": deep}},
        [report],
    ):
        problem(admin.put(path, json=wrong), 422, "invalid_request")
    content = json.dumps(report | {"settings": {"a": float("nan")}})
    headers = {"content-type": "application/json"}
    assert 400 <= admin.put(path, content=content, headers=headers).status_code < 500
    large = report | {"settings": {"a": "x" * (2 << 20)}}
    assert admin.put(path, json=large).status_code == 413
    problem(admin.put("/v1/scorers/mine/versions/9/evaluation", json=report), 404, "not_found")
    assert admin.get("/v1/scorers/mine/versions/1").json()["evaluation"] == report


def test_lists_have_pages(api: Api, admin: httpx.Client) -> None:
    verify(api, "1", "2", "3")
    verify(api, "1", "2", name="another")
    found = list(pages(admin, "/v1/scorers"))
    rows = [(one["name"], row["version"]) for page in found for one in page["data"] for row in one["data"]]
    named = [("another", "2"), ("another", "1"), ("mine", "3"), ("mine", "2"), ("mine", "1")]
    assert (len(found), rows) == (3, named)
    found = list(pages(admin, "/v1/scorers/mine/versions"))
    assert [[row["version"] for row in page["data"]] for page in found] == [["3", "2"], ["1"]]
    assert {page["name"] for page in found} == {"mine"}

    for version in "123":
        activate(admin, version)
    activate(admin, "1", scope="tenant:default")
    path = "/v1/scorers/mine/activations"
    shown = [row["scorer"] for page in pages(admin, path, open=False) for row in page["data"]]
    assert shown == ["mine@2", "mine@1"]
    with api.client(api.new_key("ten_other")) as stranger:
        seen = list(pages(stranger, path))
    assert [[row["scorer"] for row in page["data"]] for page in seen] == [["mine@3", "mine@2"], ["mine@1"]], (
        "no gap where another tenant's is"
    )
    cursor = admin.get(path, params={"limit": 1}).json()["next_cursor"]
    for borrowed in (f"{path}?open=true&cursor={cursor}", f"/v1/scorers?cursor={cursor}", f"{path}?cursor=x"):
        problem(admin.get(borrowed), 422, "invalid_cursor", "cursor")
    problem(admin.get(f"{path}?limit=0"), 422, "invalid_request", "limit")


def test_the_audit_log_has_pages(api: Api, admin: httpx.Client) -> None:
    verify(api, "1", "2")
    activate(admin, "1")
    activate(admin, "2")
    everything = admin.get("/v1/audit").json()
    assert everything["has_more"] is False
    seen: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = admin.get("/v1/audit", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["data"]) <= 2
        seen += page["data"]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert seen == everything["data"]
    assert [one["action"] for one in seen][:1] == ["scorer.activated"]
    one = admin.get("/v1/audit", params={"subject": "mine@1"}).json()["data"]
    assert {entry["subject"] for entry in one} == {"mine@1"}
    page = admin.get("/v1/audit", params={"limit": 1}).json()
    borrowed = {"cursor": page["next_cursor"], "subject": "mine@1"}
    problem(admin.get("/v1/audit", params=borrowed), 422, "invalid_cursor", "cursor")


def ask(client: httpx.Client, scorer: str) -> httpx.Response:
    body = {"text": "A text.", "questions": ["Q"], "policy": "namm-key", "scorer": scorer}
    return client.post("/v1/jobs", json=body)


def test_a_job_may_ask_for_the_registrys_scorers(api: Api, admin: httpx.Client, client: httpx.Client) -> None:
    problem(ask(client, "mine"), 422, "unknown_scorer", "scorer")
    verify(api, "1")
    assert ask(client, "mine@1").status_code == 201
    assert "mine@1" in problem(ask(client, "mine@2"), 422, "unknown_scorer", "scorer")["known_scorers"]
    problem(ask(client, "mine"), 422, "unknown_scorer", "scorer")
    activate(admin, "1", alias=Alias.CANARY, percent=50)
    problem(ask(client, "mine"), 422, "unknown_scorer", "scorer")
    activate(admin, "1", scope="model:other")
    problem(ask(client, "mine"), 422, "unknown_scorer", "scorer")
    activate(admin, "1", scope="model:bundled")
    assert ask(client, "mine").json()["scorer"] == "mine"
    assert ask(client, "namm-key@1").status_code == 201, "a worker's own"
    send(admin, version="7", scorer=TENSORS, manifest=manifest())
    problem(ask(client, "mine@7"), 422, "scorer_not_verified", "scorer")
