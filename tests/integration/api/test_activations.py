"""Activations over real HTTP: stable versions, canaries, rollback."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Api, problem
from tests.support.scorer_requests import activate, verify


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    with api.client(api.new_key(admin=True)) as client:
        yield client


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def served(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """What serves or did, the newest first."""
    found = client.get("/v1/scorers/mine/activations", params=query)
    assert found.status_code == 200, found.text
    rows: list[dict[str, Any]] = found.json()["data"]
    return rows


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
