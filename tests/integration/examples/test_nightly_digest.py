"""examples/nightly-digest with the bundled model: what it quotes stands where it says, whatever it quotes."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from cronsim import CronSim

from api.bulk.schemas import BulkWork
from store import blobs
from store.bulk import ENDED
from store.sources import folders
from tests.conftest import Api, api_on
from tests.support import REPOSITORY
from worker.bulk.conductor import Conductor
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs

EXAMPLE = REPOSITORY / "examples" / "nightly-digest"
DOCUMENTS = EXAMPLE / "documents"
PATHS = sorted(file.name for file in DOCUMENTS.iterdir())
SCHEDULE: dict[str, Any] = json.loads((EXAMPLE / "schedule.json").read_text())


@pytest.fixture
def example(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    allowed = tmp_path / "sources.toml"
    allowed.write_text(f"[[source]]\nurl = '{DOCUMENTS}'\n")
    # Nothing here tells the service now and then that the worker is alive.
    more = {"sources_file": allowed, "worker_live_seconds": 3600.0}
    with api_on(database_url, redis_url, tmp_path / "data", **more) as api:
        yield api


def run(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    """Begin a bulk job and see it through with a conductor and a worker of the bundled model."""
    config = api.settings
    conductor = Conductor(config, api.database, blobs.connect(config), folders.connect(config))
    process = WorkerProcess(config, api.database, "wrk_test")
    with api.client() as client:
        begun = client.post("/v1/bulk", json=body)
        assert begun.status_code == 201, begun.text
        for _ in range(30):
            conductor.round()
            run_jobs(process)
            found: dict[str, Any] = client.get(f"/v1/bulk/{begun.json()['id']}").json()
            if found["state"] in ENDED:
                return found
    raise AssertionError(f"it is still {found['state']}")


def test_the_schedule_is_one() -> None:
    BulkWork.model_validate(SCHEDULE["bulk"])
    assert next(CronSim(SCHEDULE["cron"], datetime(2027, 3, 1, tzinfo=UTC))).hour == 2


def test_the_readme_says_what_the_check_counted() -> None:
    readme = (EXAMPLE / "README.md").read_text()
    rows = json.loads((REPOSITORY / "benchmarks" / "results" / "digest.json").read_text())
    made_by = ("qwen2.5-coder-1.5b", SCHEDULE["bulk"]["job"]["template"])
    [row] = [row for row in rows if (row["model"], row["template"]) == made_by]
    totals = row["totals"]
    inventions = totals["inventions"] + totals["unknown_numbers"]
    assert f"{totals['carried']} of {totals['facts']} facts" in readme
    assert f"Of {totals['points']} sentences {totals['exact']} are" in readme
    assert f"{totals['near']} nearly so, and {totals['unlocated']} are unlocated" in readme
    assert f"{inventions} inventions" in readme
    assert f"on {date.fromisoformat(row['machine']['date']):%-d %B %Y}" in readme
    digest = (EXAMPLE / "digest.md").read_text()
    for mark, count in (("(line ", "exact"), ("(near line ", "near"), ("(unlocated)", "unlocated")):
        assert digest.count(f" *{mark}") == totals[count]


def test_the_folder_becomes_a_digest_whose_quotes_are_where_it_says(example: Api) -> None:
    # The bundled model cannot follow the schedule's template; this one lets it complete lines it has read.
    job = {**SCHEDULE["bulk"]["job"], "template": "key-points", "points": 4}
    job["questions"] = ["Invoice 4821 total:"]
    work = {**SCHEDULE["bulk"], "job": job}
    with example.client() as client:
        source = {"name": work["collection"], "source": f"file://{DOCUMENTS}"}
        assert client.post("/v1/collections", json=source).status_code == 201
        ended = run(example, work)
        assert (ended["state"], ended["error"]) == ("succeeded", None)
        bundle = {name: client.get(f"/v1/bulk/{ended['id']}/bundle/{name}").text for name in ended["bundle"]}
    lines = [json.loads(line) for line in bundle["documents.jsonl"].splitlines()]
    assert [(line["path"], line["state"]) for line in lines] == [(path, "succeeded") for path in PATHS]
    located = 0
    for line in lines:
        text = (DOCUMENTS / line["path"]).read_text()
        assert len(line["summary"]) == job["points"]
        assert [answer["prompt"] for answer in line["answers"]] == job["questions"]
        assert line["scorer"].startswith("namm-key@")
        for point in line["points"]:
            located += point["located"]
            passage = " ".join(text[slice(point["start"], point["end"])].split())
            quote = " ".join(point["quote"].removesuffix(".").split())
            assert point["located"] == (quote in " ".join(text.split()))
            if point["located"]:
                assert passage.removesuffix(".") == quote
            if point["match"]:
                assert point["line"] == text[: point["start"]].count("\n") + 1
    assert located > 0
    matches = [point["match"] for line in lines for point in line["points"]]
    shown = bundle["digest.md"]
    assert shown.count(" *(unlocated)*") == matches.count(None)
    assert shown.count(" *(near line ") == matches.count("near")
    assert shown.count(" *(line ") == matches.count("exact")
    totals = json.loads(bundle["totals.json"])
    assert (totals["documents"], totals["digest"]) == (len(PATHS), {"made": True})
    # What is committed was made of the same documents.
    for digest in (bundle["digest.md"], (EXAMPLE / "digest.md").read_text()):
        headings = re.findall(r"^## (.+)$", digest, re.MULTILINE)
        assert headings == ["All documents", *PATHS, "What it cost"]
    # The next night nothing has changed.
    again = run(example, work)
    assert (again["state"], again["progress"]["documents"]) == ("succeeded", 0)
