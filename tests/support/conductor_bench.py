"""A conductor and a worker over a folder of five documents, which a test sets going."""

import json
from pathlib import Path
from typing import Any

from store import blobs, bulk, collections, workers
from store.bulk import NewBulk
from store.database import Database
from store.jobs.admission import Ask, Owner
from store.settings import Settings
from store.sources.folders import Grant, Sources
from store.tables.bulk import Bulk
from store.tables.collections import CollectionItem
from store.workers import ModelCard
from worker.bulk import bundle
from worker.bulk.conductor import Conductor
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs

ASK = Ask(task="summarize", template="key-points", points=1, questions=("Who?",), policy="window")
PROMPTS = ("Key point 1:", "Who?")


class Bench:
    """A conductor and a worker that a test sets going."""

    def __init__(
        self, config: Settings, db: Database, process: WorkerProcess, folder: Path, tenant: str
    ) -> None:
        self.config, self.db, self.process, self.folder = config, db, process, folder
        self.files = blobs.connect(config)
        self.owner = Owner(tenant, None, "default")
        allowed = Sources([Grant(str(folder)), Grant(str(folder.parent / "target"), write=True)])
        self.conductor = Conductor(config, db, self.files, allowed)
        card = ModelCard("small", "r", 1024, 256, 100, "cd" * 32, ["namm", "window"], [])
        with db.session() as session:
            workers.advertise(session, "wrk_test", card, loaded=True)

    def begin(self, ask: Ask = ASK, **options: Any) -> str:
        with self.db.session() as session:
            if "documents" not in options:
                found = collections.of_source(session, self.owner.tenant_id, str(self.folder), None)
                options |= {"collection_id": found.id, "collection_name": found.name}
            return bulk.create(session, self.owner, NewBulk(ask, **options)).id

    def run(self, bulk_id: str, rounds: int = 200) -> Bulk:
        for _ in range(rounds):
            self.conductor.round()
            run_jobs(self.process)
            found = self.look(bulk_id)
            if found.state in bulk.ENDED:
                return found
        raise AssertionError(f"{bulk_id} is still {found.state}")

    def look(self, bulk_id: str) -> Bulk:
        with self.db.session() as session:
            return bulk.get(session, self.owner.tenant_id, bulk_id)

    def items(self) -> dict[str, CollectionItem]:
        with self.db.session() as session:
            found = collections.of_source(session, self.owner.tenant_id, str(self.folder), None)
            return {
                row.path: row for row in collections.items(session, found.tenant_id, found.id, limit=1000)
            }

    def blobs(self) -> int:
        return len(self.files.names(f"documents/{self.owner.tenant_id}"))

    def counts(self, bulk_id: str) -> dict[str, int]:
        with self.db.session() as session:
            return bulk.count(session, bulk.get(session, self.owner.tenant_id, bulk_id))

    def read(self, found: Bulk, name: str) -> str:
        with self.files.open(f"{found.bundle_key}/{name}") as file:
            return file.read().decode()

    def lines(self, found: Bulk) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read(found, bundle.DOCUMENTS).splitlines()]
