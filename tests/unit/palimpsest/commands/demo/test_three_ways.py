"""The demo asks one document three ways and shows the answers beside the truth."""

from pathlib import Path
from typing import Any

import pytest

from palimpsest.commands.demo.questions import Example, Question
from palimpsest.commands.demo.three_ways import budget_for, compare, summarize
from palimpsest.machine.data_directory import LocalError
from tests.support.demo_service import DemoService

COLOUR = Question("What colour is it?", "red", ("red",), about="amended")
COUNT = Question("How many are there?", "4 [four]", ("4", "four"))


@pytest.fixture
def example(tmp_path: Path) -> Example:
    document = tmp_path / "agreement.md"
    document.write_text("It is red. There are four.")
    return Example(document, (COLOUR, COUNT))


def forgetful(job: dict[str, Any], question: str) -> str:
    """All answers with the full cache, one guided, none open."""
    if job["policy"] == "full" or (question == COLOUR.ask and job["reading"] == "guided"):
        return "It is red, and there are four [of them]."
    return "blue"


def test_three_jobs_at_one_budget(example: Example) -> None:
    service = DemoService(forgetful)
    compare(service, example, policy=None, cache_budget=None)  # type: ignore[arg-type]
    full, guided, opened = service.submitted
    assert (full["policy"], "reading" in full, "cache_budget" in full) == ("full", False, False)
    assert (guided["reading"], opened["reading"]) == ("guided", "open")
    assert guided["cache_budget"] == opened["cache_budget"] == 1536
    assert {job["document_id"] for job in service.submitted} == {"doc_1"}
    assert all(job["questions"] == [COLOUR.ask, COUNT.ask] for job in service.submitted)


def test_a_policy_and_a_budget_of_the_users(example: Example) -> None:
    service = DemoService(forgetful)
    compare(service, example, policy="h2o", cache_budget=700)  # type: ignore[arg-type]
    assert [job["policy"] for job in service.submitted] == ["full", "h2o", "h2o"]
    assert [job.get("cache_budget") for job in service.submitted] == [None, 700, 700]


def test_answers_stand_beside_the_truth(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    compare(DemoService(forgetful), example, None, None)  # type: ignore[arg-type]
    told = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines.index("asked What colour is it? (amended)") < lines.index("truth red")
    assert "truth 4 [four]" in lines
    assert "full It is red, and there are four [of them]. right" in lines
    assert "guided It is red, and there are four [of them]. right 25%" in lines
    assert "guided blue wrong 25%" in lines
    assert lines.count("open blue wrong") == 2
    for way, right in (("full", 2), ("guided", 1), ("open", 0)):
        assert any(line.startswith(f"{way} {right} of 2 ") for line in lines), way
    assert "1,536 of 6,300" in told
    assert "1,536 slots per head" in told


def test_a_failed_job_ends_it_with_the_reason(example: Example) -> None:
    with pytest.raises(LocalError, match=r"job_0 failed broken: It \[broke\]\."):
        compare(DemoService(state="failed"), example, None, None)  # type: ignore[arg-type]


def test_summaries_with_the_full_cache_and_guided(
    example: Example, capsys: pytest.CaptureFixture[str]
) -> None:
    service = DemoService(lambda job, question: f"- [{job.get('reading')}]")
    readings = compare(service, example, None, None)  # type: ignore[arg-type]
    summarize(service, readings)  # type: ignore[arg-type]
    full, guided = service.submitted[3:]
    assert full["task"] == guided["task"] == "summarize"
    assert (full.get("reading"), guided.get("reading")) == (None, "guided")
    assert guided["cache_budget"] == 1536
    told = capsys.readouterr().out
    assert "Summary, full" in told
    assert "- [guided]" in told
    assert "Of 0 points 0 are in the document word for word" in told


@pytest.mark.parametrize(("tokens", "slots"), [(6300, 1536), (256, 64), (100, 64)])
def test_a_budget_is_at_most_a_quarter_of_the_document(tokens: int, slots: int) -> None:
    assert budget_for(tokens) == slots
