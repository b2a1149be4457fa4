"""Long documents read in parts, whose answers are combined."""

import json
from dataclasses import replace

from sqlalchemy import func, select, text

from store import bulk, jobs, prompt_templates
from store.bulk import results
from store.tables.billing import Bill
from store.tables.bulk import BulkPart
from store.tables.documents import Document
from store.tables.jobs import Job
from tests.support.conductor_bench import ASK, PROMPTS, Bench
from worker.bulk import bundle
from worker.bulk.conductor import Conductor


def test_long_documents_are_read_in_parts_when_asked_to(bench: Bench) -> None:
    config = bench.config.model_copy(update={"bulk_part_characters": 100})
    bench.conductor = Conductor(config, bench.db, bench.files, bench.conductor._sources)
    (bench.folder / "short.txt").write_text("Short.")
    found = bench.run(bench.begin(strategy="map_reduce"))
    lines = {line["path"]: line for line in bench.lines(found)}
    assert (lines["short.txt"]["strategy"], lines["short.txt"]["parts"]) == ("whole", None)
    long = lines["0/0.txt"]
    assert (long["state"], long["strategy"], long["parts"]) == ("succeeded", "map_reduce", 2)
    assert "Read in 2 parts." in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session:
        job = session.get_one(Job, long["job_id"])
        with bench.files.open(session.get_one(Document, job.document_id).blob_key) as file:
            text = file.read().decode()
        line = next(results.all_lines(session, found))
        quoting = replace(line, answers=[{"prompt": PROMPTS[0], "text": "Document 0."}])
        [answer] = bench.conductor._bundler.locate_key_points(session, quoting, 1).answers
    assert (answer["points"][0]["start"], answer["points"][0]["occurrences"]) == (0, 12)
    assert text.startswith("Part 1\nKey point 1: ")
    assert text.count("Who? ") == 2


def in_parts(bench: Bench) -> None:
    config = bench.config.model_copy(update={"bulk_part_characters": 100})
    bench.conductor = Conductor(config, bench.db, bench.files, bench.conductor._sources)


def test_a_refusal_when_parts_are_put_together_ends_the_document(bench: Bench) -> None:
    in_parts(bench)
    with bench.db.session() as session:
        prompt_templates.add(session, bench.owner.tenant_id, "mine", "Briefly:", each_point=False)
    bulk_id = bench.begin(replace(ASK, template="mine"), strategy="map_reduce")
    for _ in range(8):
        bench.conductor.round()
    with bench.db.session() as session:
        session.execute(text("DELETE FROM prompt_templates"))
    found = bench.run(bulk_id)
    assert (found.state, found.error_code) == ("failed", "nothing_succeeded")
    assert {line["error"]["code"] for line in bench.lines(found)} == {"unknown_template"}


def test_parts_that_were_read_well_are_not_read_again(bench: Bench) -> None:
    in_parts(bench)
    bulk_id = bench.begin(strategy="map_reduce")
    for _ in range(8):
        bench.conductor.round()
    with bench.db.session() as session:
        first = select(BulkPart).where(BulkPart.bulk_id == bulk_id, BulkPart.seq == 0)
        one = session.scalars(first).first()
        assert one is not None
        jobs.cancel(session, bench.owner.tenant_id, one.job_id)
    found = bench.run(bulk_id)
    assert [line["state"] for line in bench.lines(found)] == ["failed"] + ["succeeded"] * 4
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    found = bench.run(bulk_id)
    assert [line["state"] for line in bench.lines(found)] == ["succeeded"] * 5
    with bench.db.session() as session:
        tried = session.scalars(select(Job.state).where(Job.bulk_id == bulk_id, Job.bulk_seq == 0)).all()
        billed = session.scalar(select(func.sum(Bill.tokens_document)))
    assert sorted(tried) == [
        "cancelled",
        "succeeded",
        "succeeded",
        "succeeded",
    ]  # two parts, what came of them
    spent = sum(line["spent"][0]["tokens_document"] for line in bench.lines(found))
    totals = json.loads(bench.read(found, bundle.TOTALS))["spent"][0]["tokens_document"]
    assert spent <= totals == billed
