"""What options make of a schedule's body out of a file."""

from typing import Any

import pytest
import typer

from palimpsest.commands.schedule_body import override

JOB = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "overlap": "queue",
    "job": {"document_id": "doc_1", "questions": ["Who?"], "policy": "window", "metadata": {"a": "b"}},
}
BULK = {
    "name": "weekly",
    "cron": "0 6 * * MON",
    "bulk": {
        "source": "s3://contracts",
        "glob": "*.txt",
        "only_changed": True,
        "job": {"task": "summarize", "points": 3, "template": "terse"},
    },
}


def merged(body: dict[str, Any], **options: dict[str, Any]) -> dict[str, Any]:
    return override(body, **{"timing": {}, "target": {}, "work": {}, "run": {}, **options})


@pytest.mark.parametrize("body", [JOB, BULK])
def test_without_options_a_body_stays_what_it_is(body: dict[str, Any]) -> None:
    assert merged(body) == body


def test_options_override_fields_and_leave_the_others() -> None:
    found = merged(
        JOB,
        timing={"name": "other"},
        work={"policy": "namm-key", "priority": 3},
        run={"deadline_seconds": 9.0},
    )
    section = {**JOB["job"], "policy": "namm-key", "priority": 3, "deadline_seconds": 9.0}  # type: ignore[dict-item]
    assert found == {**JOB, "name": "other", "job": section}


def test_another_task_drops_what_belonged_to_the_one_before() -> None:
    asked = merged(BULK, work={"task": "ask", "questions": ["Who?"]})["bulk"]
    assert asked["job"] == {"task": "ask", "questions": ["Who?"]}
    summarized = merged(BULK, work={"task": "summarize", "questions": ["Who?"], "words": 90})["bulk"]
    assert summarized["job"] == {**BULK["bulk"]["job"], "questions": ["Who?"], "words": 90}  # type: ignore[index]


def test_another_target_of_the_same_kind_replaces_the_target_only() -> None:
    assert merged(JOB, target={"document_id": "doc_2"})["job"] == {**JOB["job"], "document_id": "doc_2"}  # type: ignore[dict-item]
    found = merged(BULK, target={"collection": "papers"})["bulk"]
    assert found == {"collection": "papers", "only_changed": True, "job": BULK["bulk"]["job"]}  # type: ignore[index]
    assert merged(BULK, target={"glob": "*.md"})["bulk"] == {**BULK["bulk"], "glob": "*.md"}  # type: ignore[dict-item]


def test_a_target_of_the_other_kind_replaces_the_section() -> None:
    found = merged(JOB, target={"collection": "papers"}, work={"task": "summarize"}, run={"digest": False})
    assert found["bulk"] == {"collection": "papers", "job": {"task": "summarize"}, "digest": False}
    assert "job" not in found
    with pytest.raises(typer.BadParameter, match="--summarize"):
        merged(JOB, target={"collection": "papers"})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "--from"),
        ({"job": {"questions": ["Who?"]}, "cron": "0 6 * * *"}, "NAME"),
        ({"job": {"questions": ["Who?"]}, "name": "nightly"}, "CRON"),
        ({"job": {"document_id": "doc_1"}, "name": "nightly", "cron": "0 6 * * *"}, "--ask"),
    ],
)
def test_what_is_missing_is_named(body: dict[str, Any], says: str) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        merged(body)


@pytest.mark.parametrize("body", [{"job": "x"}, {"bulk": [1]}, {"bulk": {"source": "s3://a", "job": 3}}])
def test_a_part_that_is_no_object_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(typer.BadParameter, match="must be an object"):
        merged({"name": "n", "cron": "* * * * *", **body}, work={"task": "ask"})


def test_an_option_overrides_the_former_name_of_its_field() -> None:
    body = {**JOB, "job": {**JOB["job"], "budget": 64}}  # type: ignore[dict-item]
    assert merged(body, work={"cache_budget": 96})["job"].items() >= {"cache_budget": 96}.items()
    assert "budget" not in merged(body, work={"cache_budget": 96})["job"]
