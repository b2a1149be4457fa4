"""Uploads of scorer versions over real HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from store import outbox
from tests.conftest import Api, problem
from tests.support.scorer_files import TENSORS, manifest
from tests.support.scorer_requests import activate, send, verify


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    with api.client(api.new_key(admin=True)) as client:
        yield client


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


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
