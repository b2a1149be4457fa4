"""Versions of scorers as the registry has them after verification, for tests of who serves them."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy.orm import Session

from namm_runtime.scorer.checkpoint import Scorer
from store.blobs import Blobs
from store.database import Database
from store.scorers import activations, registry
from store.tables.scorers import Activation, ScorerVersion
from tests.support.standin import save_scorer


def add(session: Session, name: str, version: str, sha256: str, key: str) -> ScorerVersion:
    """A verified version whose files lie under `key`."""
    row, _ = registry.upload(
        session, name=name, version=version, kind="safetensors", upload_key="u", upload_sha256=key, actor="k"
    )
    registry.mark_verified(session, row, blob_key=key, sha256=sha256, manifest={})
    return row


def add_standin(db: Database, blobs: Blobs, version: str, content: str | None = None) -> ScorerVersion:
    """`namm@version` for the stand-in engine, whose answers then end in `namm@version` or the content."""
    key = f"scorers/namm/{version}"
    sha256 = save_scorer(blobs, key, content or f"namm@{version}")
    with db.session() as session:
        return add(session, "namm", version, sha256, key)


def add_real(db: Database, blobs: Blobs, scorer: Scorer, version: str, folder: Path) -> ScorerVersion:
    """A version with the files of a real scorer, which are left in `folder` too."""
    sha256 = scorer.save(folder)
    key = f"scorers/{scorer.name}/{version}"
    for file in folder.iterdir():
        with blobs.create(f"{key}/{file.name}") as target:
            target.write(file.read_bytes())
    with db.session() as session:
        return add(session, scorer.name, version, sha256, key)


Change = Callable[[Blobs, ScorerVersion], None]


def _gone(blobs: Blobs, row: ScorerVersion) -> None:
    blobs.delete_folder(str(row.blob_key))


def _replaced(blobs: Blobs, row: ScorerVersion) -> None:
    with blobs.create(f"{row.blob_key}/scorer.safetensors") as file:
        file.write(b"broken")


def _without_manifest(blobs: Blobs, row: ScorerVersion) -> None:
    blobs.delete(f"{row.blob_key}/manifest.json")


DAMAGES: dict[str, Change] = {"gone": _gone, "replaced": _replaced, "without manifest": _without_manifest}


def activate(db: Database, row: ScorerVersion, scope: str = "global", **more: object) -> Activation:
    """From now on it serves."""
    with db.session() as session:
        return activations.activate(session, row, scope, "key_1", **more)  # type: ignore[arg-type]
