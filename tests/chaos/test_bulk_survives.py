"""Whoever is killed during a bulk job, its bundle is the same but for its timings."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from store import bulk, collections
from store.bulk import NewBulk
from store.jobs.admission import Ask, Owner
from store.tables.bulk import Bulk
from tests.chaos.conftest import Service, wait_for
from tests.support.depth import deep
from tests.support.standin import right_answer
from worker.bulk import bundle

DOCUMENTS = 40
ASK = Ask(
    task="summarize", template="key-points", points=1, questions=("Who?",), model="small", policy="namm"
)
HASTY = {"PALIMPSEST_CONDUCTOR_SECONDS": "0.1", "PALIMPSEST_BULK_WINDOW": "8"}
# Of a line, what is the same however often it was tried: the rest are ids and times.
LASTING = (
    "path",
    "sha256",
    "state",
    "strategy",
    "parts",
    "summary",
    "points",
    "answers",
    "complete",
    "error",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(DOCUMENTS):
        (source / f"{number:03}.txt").write_text(
            f"Document {number} speaks of one thing. " * (3 + number % 9)
        )
    (source / "bad.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "sources.toml").write_text(f'[[source]]\nurl = "{tmp_path}"\nwrite = true\n')
    return source


class Bulks:
    """Bulk jobs over the folder, and the processes that do them."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.folder = service, folder
        self.changes = {**HASTY, "PALIMPSEST_SOURCES_FILE": str(folder.parent / "sources.toml")}

    def begin(self, strategy: str) -> str:
        owner = Owner(self.service.tenant, None, "default")
        with self.service.database.session() as session:
            found = collections.of_source(session, owner.tenant_id, str(self.folder), None)
            new = NewBulk(
                ASK,
                collection_id=found.id,
                collection_name=found.name,
                strategy=strategy,
                destination=str(self.folder.parent / "target"),
            )
            return bulk.create(session, owner, new).id

    def conductor(self, name: str) -> Any:
        return self.service.start(name, "worker.bulk.conductor", **self.changes)

    def look(self, bulk_id: str) -> Bulk:
        with self.service.database.session() as session:
            return bulk.get(session, self.service.tenant, bulk_id)

    def ended(self, bulk_id: str) -> Bulk:
        wait_for("the bulk job to end", lambda: self.look(bulk_id).state in bulk.ENDED)
        found = self.look(bulk_id)
        assert (found.state, found.error_code, found.delivery_error) == ("succeeded", None, None)
        return found

    def lines(self, found: Bulk) -> list[dict[str, Any]]:
        with self.service.files.open(f"{found.bundle_key}/{bundle.DOCUMENTS}") as file:
            held = file.read()
        assert held == (self.folder.parent / "target" / found.id / bundle.DOCUMENTS).read_bytes()
        return [json.loads(line) for line in held.splitlines()]


@pytest.mark.deep
@pytest.mark.parametrize("strategy", ["whole", "map_reduce"])
def test_killing_anybody_changes_nothing_in_the_bundle(service: Service, folder: Path, strategy: str) -> None:
    made = Bulks(service, folder)
    quick = {"PALIMPSEST_STANDIN_SECONDS": "0.005", "PALIMPSEST_BULK_PART_CHARACTERS": "200", **made.changes}
    made.changes = quick
    service.loops()
    running = {"worker": service.worker("worker0", **quick), "conductor": made.conductor("conductor0")}
    bulk_id = made.begin(strategy)
    chance = random.Random(strategy)
    for number in range(1, deep(7, 40)):
        time.sleep(chance.uniform(0.2, 1.5))
        victim = chance.choice(["worker", "conductor"])
        os.killpg(running[victim].pid, signal.SIGKILL)
        name = f"{victim}{number}"
        running[victim] = service.worker(name, **quick) if victim == "worker" else made.conductor(name)
    lines = made.lines(made.ended(bulk_id))
    assert [line["path"] for line in lines] == [*(f"{n:03}.txt" for n in range(DOCUMENTS)), "bad.txt"]
    for line in lines[:-1]:
        assert (line["state"], line["complete"], line["error"]) == ("succeeded", True, None)
        if line["strategy"] == "whole":
            text = (folder / line["path"]).read_bytes()
            assert line["summary"] == [f"{right_answer(text, 'Key point 1:')}"]
    undisturbed = made.lines(made.ended(made.begin(strategy)))
    shown = [[{name: line[name] for name in LASTING} for line in held] for held in (lines, undisturbed)]
    assert shown[0] == shown[1]
