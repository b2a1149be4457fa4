"""What a pass of the reaper's loop does beside the store's sweep."""

import os
import time
from pathlib import Path

from store import blobs, tenants
from store.database import Database
from store.scorers import activations, registry
from store.scorers.serving import Alias
from store.settings import Settings
from tests.support.guardrails import FAILURES, book, bound
from tests.support.versions import make
from worker.loops.reaper import reap_once, remove_leftovers


def test_a_pass_ends_canaries_that_crossed_their_bounds(db: Database, config: Settings) -> None:
    with db.session() as session:
        tenants.ensure(session)
        activations.activate(session, make(session, "1"), "global", "key_1")
        canary = bound(session, FAILURES)
        book(session, failed=10, succeeded=0)
    reap_once(db, blobs.connect(config), config)
    with db.session() as session:
        assert [row.alias for row in activations.current(session)] == [Alias.STABLE]
        assert canary.id in {row.id for row in activations.history(session)}


def test_old_uploads_that_no_row_waits_for_are_removed(db: Database, config: Settings) -> None:
    files = blobs.connect(config)

    def put(key: str, days: float) -> None:
        for name in ("scorer.safetensors", "manifest.json"):
            with files.create(f"{key}/{name}") as file:
                file.write(b"x")
            moment = time.time() - days * 86400
            os.utime(Path(config.blobs) / key / name, (moment, moment))

    ages = {"waiting": 9.0, "verified": 9.0, "nobodys": 1.1, "young": 0.9}
    for name, days in ages.items():
        put(f"uploads/upl_{name}", days)
    with db.session() as session:
        for name in ("waiting", "verified"):
            terms = {"kind": "safetensors", "upload_sha256": name, "actor": "k"}
            row, _ = registry.upload(
                session, name="mine", version=name, upload_key=f"uploads/upl_{name}", **terms
            )
        registry.mark_verified(session, row, blob_key="b", sha256="s", manifest={})
    put("documents/ten_a/doc_old", 9)
    remove_leftovers(db, files)
    left = {key.partition("/")[0] for key in files.names("uploads")}
    assert left == {"upl_waiting", "upl_young"}
    assert files.names("documents"), "only uploads of scorers"
