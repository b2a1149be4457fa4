"""What the files of a bundle hold."""

import json

from store import jobs
from store.tables.jobs import Job
from tests.support.conductor_bench import PROMPTS, Bench
from tests.support.standin import right_answer
from worker.bulk import bundle


def test_a_folder_becomes_a_bundle(bench: Bench) -> None:
    target = bench.folder.parent / "target"
    found = bench.run(bench.begin(destination=str(target)))
    assert (found.state, found.error_code, found.delivery_error) == ("succeeded", None, None)
    lines = bench.lines(found)
    assert [line["path"] for line in lines] == ["0/0.txt", "0/2.txt", "0/4.txt", "1/1.txt", "1/3.txt"]
    for line in lines:
        text = (bench.folder / line["path"]).read_bytes()
        assert line["summary"] == [right_answer(text, PROMPTS[0])]
        assert line["answers"] == [{"prompt": "Who?", "text": right_answer(text, "Who?")}]
        assert [point["located"] for point in line["points"]] == [False]
        assert (line["state"], line["strategy"], line["error"]) == ("succeeded", "whole", None)
        assert line["usage"]["tokens_document"] == len(text)
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
    text = (
        "\n\n".join(f"{line['path']}\n{PROMPTS[0]} {line['summary'][0]}" for line in bench.lines(found))
        + "\n"
    )
    assert result.answers[0]["text"] == right_answer(text.encode(), PROMPTS[0])
