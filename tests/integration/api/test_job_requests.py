"""Requests for jobs: what is refused and why, and idempotency keys, over real HTTP."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.conftest import Api, problem
from tests.support.job_requests import ASK


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def rows(api: Api, table: str) -> int:
    with api.database.session() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"questions": ["Q"]}, "invalid_request", "body"),
    ({**ASK, "document_id": "doc_1"}, "invalid_request", "body"),
    ({"text": "x"}, "invalid_request", "body"),
    ({**ASK, "template": "summary"}, "invalid_request", "body"),
    ({**ASK, "points": 3}, "invalid_request", "body"),
    ({"text": "x", "task": "summarize", "template": "haiku"}, "unknown_template", "template"),
    ({"text": "x", "task": "summarize", "template": "summary@99"}, "unknown_template", "template"),
    ({"text": "x", "task": "summarize", "template": "Summary"}, "invalid_request", "template"),
    ({"text": "x", "task": "summarize", "points": 0}, "invalid_request", "points"),
    ({"text": "x", "task": "prompt"}, "invalid_request", "body"),
    ({**ASK, "prompt": "x"}, "invalid_request", "body"),
    ({**ASK, "task": "translate"}, "invalid_request", "task"),
    ({**ASK, "colour": "blue"}, "invalid_request", "colour"),
    ({**ASK, "questions": "Q"}, "invalid_request", "questions"),
    ({**ASK, "questions": ["Q", " \n"]}, "invalid_request", "questions[1]"),
    ({**ASK, "questions": ["Q" * 32_769]}, "invalid_request", "questions[0]"),
    ({**ASK, "questions": ["Q"] * 5}, "too_many_questions", "questions"),
    ({**ASK, "questions": ["a\0b"]}, "invalid_request", "questions[0]"),
    ({**ASK, "text": "a\0b"}, "invalid_request", "text"),
    ({**ASK, "text": " \n\t "}, "document_empty", "text"),
    ({**ASK, "text": ""}, "document_empty", "text"),
    ({**ASK, "model": "llama-9"}, "unknown_model", "model"),
    ({**ASK, "model": "../etc/passwd"}, "invalid_request", "model"),
    ({**ASK, "policy": "sorcery"}, "unknown_policy", "policy"),
    ({**ASK, "scorer": "namm-key@99"}, "unknown_scorer", "scorer"),
    ({**ASK, "scorer": "other"}, "unknown_scorer", "scorer"),
    ({**ASK, "scorer": "a@b@c"}, "invalid_request", "scorer"),
    ({**ASK, "cache_budget": 15}, "invalid_request", "cache_budget"),
    ({**ASK, "cache_budget": 10**400}, "invalid_request", "cache_budget"),
    ({**ASK, "budget": 15}, "invalid_request", "budget"),
    ({**ASK, "budget": 64, "cache_budget": 64}, "invalid_request", None),
    ({**ASK, "max_output_tokens": 0}, "invalid_request", "max_output_tokens"),
    ({**ASK, "max_output_tokens": 10**30}, "invalid_request", "max_output_tokens"),
    ({**ASK, "max_output_tokens": 4097}, "output_too_long", "max_output_tokens"),
    ({**ASK, "max_output_tokens": 2048}, "output_too_long", "max_output_tokens"),
    ({**ASK, "seed": -1}, "invalid_request", "seed"),
    ({**ASK, "seed": 2**63}, "invalid_request", "seed"),
    ({**ASK, "temperature": 2.1}, "invalid_request", "temperature"),
    ({**ASK, "priority": 101}, "invalid_request", "priority"),
    ({**ASK, "priority": 1.5}, "invalid_request", "priority"),
    ({**ASK, "deadline": 0}, "invalid_request", "deadline"),
    ({**ASK, "deadline": -5}, "invalid_request", "deadline"),
    ({**ASK, "deadline": 1e300}, "invalid_request", "deadline"),
    ({**ASK, "deadline": True}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "tomorrow"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "2027-01-31T18:00:00"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "2027-02-31T18:00:00Z"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "2001-01-01T00:00:00Z"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "9999-12-31T23:59:59-12:00"}, "invalid_request", "deadline"),
    ({**ASK, "metadata": {f"k{n}": "v" for n in range(17)}}, "invalid_request", "metadata"),
    ({**ASK, "metadata": {"k": "v" * 513}}, "invalid_request", "metadata.k"),
    ({**ASK, "metadata": {"k": 1}}, "invalid_request", "metadata.k"),
    ({"document_id": "../../x", "questions": ["Q"]}, "invalid_request", "document_id"),
]


@pytest.mark.parametrize(("body", "code", "field"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_a_wrong_request_is_told_what_is_wrong_with_it(
    refusing_api: Api, body: dict[str, Any], code: str, field: str
) -> None:
    with refusing_api.client() as client:
        problem(client.post("/v1/jobs", json=body), 422, code, field)
    assert rows(refusing_api, "jobs") == 0
    assert rows(refusing_api, "documents") == 0
    assert refusing_api.stored_files() == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"text": ', "malformed_json"),
        (b"not json at all", "malformed_json"),
        (b"", "invalid_request"),
        (b"[]", "invalid_request"),
        (b"null", "invalid_request"),
        (b'"text"', "invalid_request"),
        (b"\xff\xfe", "malformed_json"),
        (b"[" * 15_000, "malformed_body"),
        (b'{"text": "x", "questions": ["q"], "budget": ' + b"9" * 5000 + b"}", "malformed_body"),
        (b'{"text": "x", "questions": ["q"], "temperature": NaN}', "invalid_request"),
        (b'{"text": "\\ud800", "questions": ["q"]}', "invalid_request"),
    ],
)
def test_a_body_that_is_not_a_request(refusing_api: Api, content: bytes, code: str) -> None:
    with refusing_api.client() as client:
        response = client.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    problem(response, response.status_code, code)


def test_inline_text_and_the_whole_body_have_their_limits(api: Api, client: httpx.Client) -> None:
    body = problem(client.post("/v1/jobs", json={**ASK, "text": "ü" * 8193}), 413, "text_too_large", "text")
    assert body["max_bytes"] == 16 * 1024
    problem(client.post("/v1/jobs", json={**ASK, "text": "x" * 2**21}), 413, "body_too_large", "body")

    def endless() -> Iterator[bytes]:
        yield b'{"text": "'
        while True:
            yield b"x" * 65536

    response = client.post("/v1/jobs", content=endless(), headers={"content-type": "application/json"})
    problem(response, 413, "body_too_large", "body")
    assert rows(api, "jobs") == 0


def test_an_idempotency_key_makes_one_job(api: Api, client: httpx.Client) -> None:
    headers = {"idempotency-key": "order-66"}
    first = client.post("/v1/jobs", json={**ASK, "deadline": 60}, headers=headers)
    again = client.post("/v1/jobs", json={"deadline": 60, **ASK}, headers=headers)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    other = client.post("/v1/jobs", json={**ASK, "priority": 1}, headers=headers)
    problem(other, 422, "idempotency_mismatch", "Idempotency-Key")
    assert rows(api, "jobs") == 1
    assert rows(api, "documents") == 1
    with api.client(api.new_key("ten_other")) as stranger:
        theirs = stranger.post("/v1/jobs", json={**ASK, "deadline": 60}, headers=headers)
    assert theirs.json()["id"] != first.json()["id"]


def test_an_idempotency_key_makes_one_job_when_requests_race(api: Api, client: httpx.Client) -> None:
    def post(_: int) -> httpx.Response:
        return client.post("/v1/jobs", json=ASK, headers={"idempotency-key": "race"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert rows(api, "jobs") == 1


def test_a_refused_request_leaves_its_idempotency_key_free(client: httpx.Client) -> None:
    headers = {"idempotency-key": "k"}
    problem(client.post("/v1/jobs", json={**ASK, "model": "no"}, headers=headers), 422, "unknown_model")
    assert client.post("/v1/jobs", json=ASK, headers=headers).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
def test_a_bad_idempotency_key_is_refused(refusing_api: Api, key: str) -> None:
    with refusing_api.client() as client:
        response = client.post("/v1/jobs", json=ASK, headers={"idempotency-key": key})
    problem(response, 422, "invalid_request", "idempotency-key")
