"""Prompt templates over real HTTP."""

from typing import Any

import pytest

from tests.conftest import problem
from tests.support.bulk_bench import BulkBench


def test_templates_are_versions_of_their_tenant(bench: BulkBench) -> None:
    names = [one["label"] for one in bench.client.get("/v1/templates").json()["data"]]
    assert names == ["brief@1", "key-points@1", "quotes@1", "summary@1", "summary@2"]
    body = {"prompt": "Point {number} of {points}:", "each_point": True}
    made = bench.client.post("/v1/templates/mine", json=body)
    assert (made.status_code, made.json()["label"]) == (201, "mine@1")
    body = {"prompt": "In {words} words."}
    assert bench.client.post("/v1/templates/mine", json=body).json()["label"] == "mine@2"
    document = bench.upload("Text.")
    for template, prompts in (("mine@1", ["Point 1 of 2:", "Point 2 of 2:"]), ("mine", ["In 30 words."])):
        work = {"task": "summarize", "template": template, "points": 2, "words": 30}
        ended = bench.end(bench.begin(document_ids=[document], job=work)["id"])
        [shown] = bench.client.get(f"/v1/bulk/{ended['id']}/documents").json()["data"]
        assert [answer["prompt"] for answer in shown["answers"]] == prompts
        job = bench.client.get(f"/v1/jobs/{shown['job_id']}").json()
        assert job["template"] == ("mine@1" if template == "mine@1" else "mine@2")
        assert job["max_output_tokens"] == (64 if template == "mine@1" else 90)
    with bench.api.client(bench.api.new_key("ten_other")) as stranger:
        assert len(stranger.get("/v1/templates").json()["data"]) == len(names)
        theirs = stranger.post("/v1/templates/mine", json={"prompt": "Theirs."})
        assert theirs.json()["label"] == "mine@1"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("summary", {"prompt": "Mine."}),
        ("mine", {"prompt": "{length} words"}),
        ("mine", {"prompt": "{points:>3}"}),
        ("mine", {"prompt": "One { brace"}),
        ("mine", {"prompt": "All the same:", "each_point": True}),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused(
    bench: BulkBench, name: str, body: dict[str, Any]
) -> None:
    problem(bench.client.post(f"/v1/templates/{name}", json=body), 422, "template_invalid", "prompt")
    problem(bench.client.post("/v1/templates/No_Name", json=body), 422, "invalid_request")
