"""The scorer registry over real HTTP: who may upload, look, activate and go back, and what is refused."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from store import outbox
from store.scorers import registry
from store.scorers.activations import Alias
from tests.conftest import Api, problem
from tests.support.scorer_files import MANIFEST, TENSORS, manifest


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    with api.client(api.new_key(admin=True)) as client:
        yield client


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def send(
    client: httpx.Client, name: str = "mine", version: str | None = None, **parts: Any
) -> httpx.Response:
    """Uploads parts, good ones of version 1 unless they are given."""
    if not parts:
        parts = {"scorer": TENSORS, "manifest": manifest(name)}
    content = {
        part: ("f", value if isinstance(value, bytes) else json.dumps(value).encode())
        for part, value in parts.items()
    }
    data = {} if version is None else {"version": version}
    return client.post(f"/v1/scorers/{name}/versions", files=content, data=data)


def verify(api: Api, *versions: str, name: str = "mine", **changes: Any) -> None:
    """What a worker does, without looking: the versions are uploaded, verified and stored."""
    for version in versions:
        made = manifest(name, version, **changes)
        for file, content in {
            "scorer.safetensors": TENSORS,
            "manifest.json": json.dumps(made).encode(),
        }.items():
            path = f"{api.settings.blobs}/scorers/{name}/{version}"
            _write(f"{path}/{file}", content)
        with api.database.session() as session:
            row, _ = registry.upload(
                session,
                name=name,
                version=version,
                kind="safetensors",
                upload_key="k",
                upload_sha256=version,
                actor="key_1",
            )
            registry.mark_verified(
                session,
                row,
                blob_key=f"scorers/{name}/{version}",
                sha256=str(made["sha256"]),
                manifest=made,
            )


def _write(path: str, content: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)


def activate(client: httpx.Client, version: str, **body: Any) -> httpx.Response:
    return client.post("/v1/scorers/mine/activations", json={"version": version} | body)


def served(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """What serves or did, the newest first."""
    found = client.get("/v1/scorers/mine/activations", params=query)
    assert found.status_code == 200, found.text
    rows: list[dict[str, Any]] = found.json()["data"]
    return rows


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


# -- uploads -----------------------------------------------------------------------------------------------


def test_an_upload_waits_for_its_verification(api: Api, admin: httpx.Client, client: httpx.Client) -> None:
    made = send(admin)
    assert made.status_code == 201, made.text
    body = made.json()
    assert (body["name"], body["version"], body["state"], body["kind"]) == (
        "mine",
        "1",
        "uploaded",
        "safetensors",
    )
    assert (body["sha256"], body["manifest"], body["activations"]) == (None, None, [])
    assert made.headers["location"] == "/v1/scorers/mine/versions/1"
    stored = {path.name: path.read_bytes() for path in api.stored_files()}
    assert stored.keys() == {"scorer.safetensors", "manifest.json"}
    assert stored["scorer.safetensors"] == TENSORS
    with api.database.session() as session:
        assert [hint.queue for hint in outbox.lock_hints(session)] == [outbox.SCORERS]
    assert client.get("/v1/scorers/mine/versions/1").json() == body
    assert [one["state"] for one in client.get("/v1/scorers/mine/versions").json()["data"]] == ["uploaded"]
    listed = client.get("/v1/scorers").json()["data"]
    assert [(one["name"], [version["version"] for version in one["data"]]) for one in listed] == [
        ("mine", ["1"])
    ]
    for path in (
        "/v1/scorers/mine/versions/1/files/manifest.json",
        "/v1/scorers/mine/versions/1/diff?with=1",
    ):
        problem(client.get(path), 409, "scorer_not_verified")
    problem(activate(admin, "1"), 409, "scorer_not_verified")


def test_the_same_again_is_no_error_and_other_content_is(api: Api, admin: httpx.Client) -> None:
    first = send(admin)
    files = api.stored_files()
    again = send(admin)
    assert (again.status_code, again.json()) == (200, first.json())
    other = {"scorer": TENSORS, "manifest": manifest(provenance={"note": "another"})}
    problem(send(admin, **other), 409, "scorer_version_exists")
    assert api.stored_files() == files, "nothing of the second and the third is left"
    assert send(admin, version="2", **other).json()["version"] == "2", "the form's version goes first"


def test_versions_are_counted_where_none_is_given(admin: httpx.Client) -> None:
    unnamed = {"scorer": TENSORS, "manifest": manifest(version=None)}
    assert send(admin, **unnamed).json()["version"] == "1"
    again = send(admin, **unnamed)
    assert (again.status_code, again.json()["version"]) == (200, "1")
    send(admin, version="10", **unnamed)
    send(admin, version="beta", **unnamed)
    assert send(admin, checkpoint=b"whatever").json()["version"] == "11"
    assert send(admin, checkpoint=b"another").json()["kind"] == "reference"


def test_a_workers_own_version_is_not_replaced(admin: httpx.Client) -> None:
    """The fixture's worker brought namm-key@1 along, of other content."""
    problem(send(admin, "namm-key"), 409, "scorer_version_exists")
    unnamed = {"scorer": TENSORS, "manifest": manifest("namm-key", None)}
    assert send(admin, "namm-key", **unnamed).json()["version"] == "2"


def test_until_a_worker_has_said_what_it_has_nothing_is_taken(api: Api, admin: httpx.Client) -> None:
    """Or the label of a bundled scorer would be given away before anybody knows of it."""
    with api.database.session() as session:
        session.execute(text("UPDATE worker_models SET scorers = NULL"))
    refused = send(admin, "namm-key")
    problem(refused, 503, "no_worker")
    assert refused.headers["retry-after"]
    assert api.stored_files() == []
    with api.database.session() as session:
        session.execute(text("DELETE FROM workers"))
    problem(send(admin), 503, "no_worker")


def test_a_form_has_one_version(api: Api, admin: httpx.Client) -> None:
    for first in ("1", ""):
        twice = [("version", (None, first)), ("version", (None, "2")), ("checkpoint", ("f", b"x"))]
        sent = admin.post("/v1/scorers/mine/versions", files=twice)
        problem(sent, 422, "too_many_files", "version")
    assert api.stored_files() == []


@pytest.mark.parametrize(
    ("parts", "status", "code", "field"),
    [
        ({"scorer": TENSORS}, 422, "scorer_files", "scorer"),
        ({"manifest": manifest()}, 422, "scorer_files", "scorer"),
        ({"nothing": b""}, 422, "scorer_files", "scorer"),
        ({"scorer": TENSORS, "manifest": manifest(), "checkpoint": b"x"}, 422, "scorer_files", "scorer"),
        ({"scorer": TENSORS, "manifest": b"{"}, 422, "invalid_manifest", "manifest"),
        ({"scorer": TENSORS, "manifest": b"[]"}, 422, "invalid_manifest", "manifest"),
        ({"scorer": TENSORS, "manifest": b"\xff"}, 422, "invalid_manifest", "manifest"),
        ({"scorer": TENSORS, "manifest": b"[" * 90_000}, 422, "invalid_manifest", "manifest"),
        ({"scorer": TENSORS, "manifest": b'{"a": NaN}'}, 422, "invalid_manifest", "manifest"),
        ({"scorer": TENSORS, "manifest": b'{"a": 1e999}'}, 422, "invalid_manifest", "manifest"),
        ({"scorer": TENSORS, "manifest": rb'{"a": "\u0000"}'}, 422, "invalid_manifest", "manifest"),
        ({"scorer": TENSORS, "manifest": rb'{"\ud800": 1}'}, 422, "invalid_manifest", "manifest"),
        (
            {"scorer": TENSORS, "manifest": b'{"a": ' + b"9" * 5000 + b"}"},
            422,
            "invalid_manifest",
            "manifest",
        ),
        ({"scorer": TENSORS, "manifest": manifest("yours")}, 422, "scorer_name_differs", "manifest"),
        ({"scorer": TENSORS, "manifest": manifest(version="..")}, 422, "invalid_version", "version"),
        ({"scorer": TENSORS, "manifest": manifest() | {"version": 3}}, 422, "invalid_version", "version"),
        ({"scorer": bytes((16 << 20) + 1), "manifest": manifest()}, 413, "scorer_too_large", "scorer"),
        ({"scorer": TENSORS, "manifest": bytes((1 << 20) + 1)}, 413, "scorer_too_large", "manifest"),
    ],
)
def test_forms_that_are_no_upload(
    api: Api, admin: httpx.Client, parts: dict[str, Any], status: int, code: str, field: str
) -> None:
    problem(send(admin, **parts), status, code, field)
    assert api.stored_files() == []
    assert admin.get("/v1/scorers").json() == {"data": [], "has_more": False, "next_cursor": None}


@pytest.mark.parametrize("version", ["..", "-1", "a b", "x" * 100, "1\n", "a/b", "1@2"])
def test_versions_that_are_none(api: Api, admin: httpx.Client, version: str) -> None:
    problem(send(admin, version=version, checkpoint=b"x"), 422, "invalid_version", "version")
    assert api.stored_files() == []


def test_other_bodies_and_names_are_refused(api: Api, admin: httpx.Client) -> None:
    problem(admin.post("/v1/scorers/mine/versions", json={}), 415, "multipart_required")
    problem(send(admin, "..x"), 422, "invalid_request", "name")
    twice = [("scorer", ("a", b"1")), ("scorer", ("b", b"2"))]
    problem(admin.post("/v1/scorers/mine/versions", files=twice), 422, "too_many_files", "scorer")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    cut = b'--x\r\ncontent-disposition: form-data; name="checkpoint"; filename="f"\r\n\r\nabc'
    problem(admin.post("/v1/scorers/mine/versions", content=cut, headers=headers), 400, "malformed_multipart")
    assert api.stored_files() == []


def test_only_an_admin_changes_anything(api: Api, client: httpx.Client) -> None:
    verify(api, "1")
    report = {"format": 1, "model": {}, "settings": {}, "documents": {}, "machine": {}, "rows": []}
    for refused in (
        send(client),
        activate(client, "1"),
        client.delete("/v1/scorers/mine/activations/global/stable"),
        client.post("/v1/scorers/mine/rollback", json={"reason": "no"}),
        client.put("/v1/scorers/mine/versions/1/evaluation", json=report),
        client.get("/v1/audit"),
    ):
        problem(refused, 403, "admin_required", "Authorization")
    with api.database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM scorer_activations")) == 0
        assert session.scalar(text("SELECT count(*) FROM scorer_versions")) == 1


# -- verified versions -------------------------------------------------------------------------------------


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


# -- who serves --------------------------------------------------------------------------------------------


def test_activate_canary_end_and_roll_back(api: Api, admin: httpx.Client) -> None:
    verify(api, "1", "2", "3")
    assert activate(admin, "1").status_code == 201
    made = activate(admin, "2").json()
    assert (made["scorer"], made["scope"], made["alias"], made["percent"]) == (
        "mine@2",
        "global",
        "stable",
        100,
    )
    bounds = {"max_failure_rate": 0.02, "min_jobs": 50}
    canary = activate(admin, "3", alias="canary", percent=5, shadow_percent=10, bounds=bounds)
    assert canary.status_code == 201, canary.text
    assert (canary.json()["percent"], canary.json()["bounds"]) == (5, bounds)
    assert [(one["scorer"], one["alias"]) for one in served(admin)] == [
        ("mine@3", "canary"),
        ("mine@2", "stable"),
        ("mine@1", "stable"),
    ]
    assert [one["scorer"] for one in served(admin, open=True)] == ["mine@3", "mine@2"]
    assert [one["scorer"] for one in served(admin, open=False)] == ["mine@1"]
    shown = admin.get("/v1/scorers/mine/versions/3").json()
    assert (shown["state"], [one["alias"] for one in shown["activations"]]) == ("active", ["canary"])

    assert admin.delete("/v1/scorers/mine/activations/global/canary?reason=enough").status_code == 204
    problem(admin.delete("/v1/scorers/mine/activations/global/canary"), 404, "not_found")
    assert admin.get("/v1/scorers/mine/versions/3").json()["state"] == "retired"

    back = admin.post("/v1/scorers/mine/rollback", json={"reason": "worse"})
    assert (back.status_code, back.json()["scorer"]) == (200, "mine@1")
    problem(admin.post("/v1/scorers/mine/rollback", json={"reason": "worse"}), 409, "no_earlier_version")
    [serving] = served(admin, open=True)
    assert serving["scorer"] == "mine@1"
    assert "enough" in {one["ended_reason"] for one in served(admin, open=False)}


def test_scopes_of_models_with_a_slash_are_ended_too(api: Api, admin: httpx.Client) -> None:
    verify(api, "1")
    assert activate(admin, "1", scope="model:meta/llama-3").status_code == 201
    assert admin.delete("/v1/scorers/mine/activations/model:meta/llama-3/stable").status_code == 204
    assert served(admin, open=True) == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"version": "1", "scope": "everywhere"}, "invalid_request"),
        ({"version": "1", "scope": "tenant:"}, "invalid_request"),
        ({"version": "1", "scope": "tenant:ten_nobody"}, "unknown_tenant"),
        ({"version": "1", "alias": "beta"}, "invalid_request"),
        ({"version": "1", "percent": 5}, "invalid_request"),
        ({"version": "1", "alias": "canary"}, "invalid_request"),
        ({"version": "1", "alias": "canary", "percent": 101}, "invalid_request"),
        ({"version": "1", "alias": "canary", "percent": 5, "bounds": {"min_jobs": 0}}, "invalid_request"),
        ({"version": "1", "alias": "canary", "percent": 5, "bounds": {"rate": 1}}, "invalid_request"),
        ({"scope": "global"}, "invalid_request"),
    ],
)
def test_activations_that_mean_nothing(
    api: Api, admin: httpx.Client, body: dict[str, Any], code: str
) -> None:
    verify(api, "1")
    problem(admin.post("/v1/scorers/mine/activations", json=body), 422, code)
    assert served(admin) == []


def test_a_tenant_is_not_told_of_others(api: Api, admin: httpx.Client) -> None:
    verify(api, "1")
    mine, other = api.new_key("ten_mine"), api.new_key("ten_other")
    for scope in ("global", "model:small", "tenant:ten_mine", "schedule:s1"):
        assert activate(admin, "1", scope=scope).status_code == 201
    seen = {}
    for key in (mine, other):
        with api.client(key) as client:
            found = served(client, open=True)
            shown = client.get("/v1/scorers/mine/versions/1").json()["activations"]
        assert {one["scope"] for one in found} == {one["scope"] for one in shown}
        seen[key] = {one["scope"] for one in found}
    assert seen == {mine: {"global", "model:small", "tenant:ten_mine"}, other: {"global", "model:small"}}
    assert len(served(admin, open=True)) == 4


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


# -- jobs --------------------------------------------------------------------------------------------------


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
