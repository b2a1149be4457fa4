"""What the files of a bundle hold."""

import json
from dataclasses import replace

from sqlalchemy import text

from store import jobs, prompt_templates
from store.tables.jobs import Job
from tests.support.conductor_bench import ASK, PROMPTS, Bench
from tests.support.standin import right_answer
from worker.bulk import bundle

SAFE = {"guided": True, "evicted_attention": 0.02, "at_risk": False}


def test_a_folder_becomes_a_bundle(bench: Bench) -> None:
    target = bench.folder.parent / "target"
    found = bench.run(bench.begin(destination=str(target)))
    assert (found.state, found.error_code, found.delivery_error) == ("succeeded", None, None)
    lines = bench.lines(found)
    assert [line["path"] for line in lines] == ["0/0.txt", "0/2.txt", "0/4.txt", "1/1.txt", "1/3.txt"]
    for line in lines:
        document = (bench.folder / line["path"]).read_bytes()
        assert line["summary"] == [right_answer(document, PROMPTS[0])]
        assert line["answers"] == [{"prompt": "Who?", "text": right_answer(document, "Who?"), **SAFE}]
        assert (line["summary_risks"], line["warnings"], line["reading"]) == ([SAFE], [], "guided")
        assert [point["located"] for point in line["points"]] == [False]
        assert (line["state"], line["strategy"], line["error"]) == ("succeeded", "whole", None)
        assert line["usage"]["tokens_document"] == len(document)
        assert line["spent"][0]["cost"]["measurement"] == "derived"
    totals = json.loads(bench.read(found, bundle.TOTALS))
    assert (totals["documents"], totals["states"], totals["digest"]) == (5, {"succeeded": 5}, {"made": True})
    for name in bundle.FILES:
        assert (target / found.id / name).read_text() == bench.read(found, name)
    digest = bench.read(found, bundle.DIGEST)
    assert "5 of 5 documents done." in digest
    assert "(unlocated)" in digest
    assert "## 1/3.txt" in digest


def test_the_digest_is_the_models_own_reading_of_the_summaries(bench: Bench) -> None:
    found = bench.run(bench.begin())
    with bench.db.session() as session:
        job = session.get_one(Job, found.digest_job_id)
        result = jobs.result(session, job.tenant_id, job.id)
    assert job.prompts == [PROMPTS[0]]
    assert job.document_id == found.digest_document_id
    assert result is not None
    read = (
        "\n\n".join(f"{line['path']}\n{PROMPTS[0]} {line['summary'][0]}" for line in bench.lines(found))
        + "\n"
    )
    assert result.answers[0]["text"] == right_answer(read.encode(), PROMPTS[0])


def test_answers_that_repeated_themselves_are_marked(bench: Bench) -> None:
    asked = replace(ASK, questions=("Who? repeat", "When?"))
    found = bench.run(bench.begin(asked))
    for line in bench.lines(found):
        assert line["repeated"] == ["Who? repeat"]
    marked = [line for line in bench.read(found, bundle.DIGEST).splitlines() if "repeated itself" in line]
    assert len(marked) == 5
    assert all(line.startswith("**Who? repeat**") for line in marked)


def test_a_summary_that_repeated_itself_is_marked_below_its_points(bench: Bench) -> None:
    with bench.db.session() as session:
        prompt_templates.add(session, bench.owner.tenant_id, "loops", "repeat", each_point=False)
    try:
        found = bench.run(bench.begin(replace(ASK, template="loops", questions=())))
        assert {tuple(line["repeated"]) for line in bench.lines(found)} == {("repeat",)}
        digest = bench.read(found, bundle.DIGEST)
        assert digest.count("\n*(stopped: the answer repeated itself)*\n") == 6  # all documents have one too
    finally:
        with bench.db.session() as session:
            session.execute(text("DELETE FROM prompt_templates"))


def test_a_bundle_says_which_answers_are_at_risk_and_what_was_warned_of(bench: Bench) -> None:
    found = bench.run(bench.begin(replace(ASK, questions=("What was evicted?", "Has it piled up?"))))
    for line in bench.lines(found):
        first, second = line["answers"]
        assert (first["evicted_attention"], first["at_risk"], second["at_risk"]) == (0.41, True, False)
        assert [warning["code"] for warning in line["warnings"]] == ["slots_piled_up"]
        assert (line["policy"], line["policy_reason"]) == ("window", "The request names it.")
    totals = json.loads(bench.read(found, bundle.TOTALS))
    assert (totals["at_risk"], totals["warnings"]) == (5, {"slots_piled_up": 5})
    digest = bench.read(found, bundle.DIGEST)
    assert digest.count("*Much of what this question attends to was evicted: 41%.") == 5
    assert digest.count("Warning `slots_piled_up`: Most slots lie in one fifth.") == 5


def test_open_readings_of_a_bulk_job_have_no_risk_to_tell(bench: Bench) -> None:
    found = bench.run(bench.begin(replace(ASK, questions=("What was evicted?",), reading="open")))
    for line in bench.lines(found):
        assert line["answers"][0]["evicted_attention"] is None
        assert line["reading"] == "open"
    assert "evicted: " not in bench.read(found, bundle.DIGEST)
