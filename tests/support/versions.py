"""Versions of a scorer as the registry has them."""

from sqlalchemy.orm import Session

from store.scorers import registry
from store.tables.scorers import ScorerVersion


def make(session: Session, version: str, *, verify: bool = True) -> ScorerVersion:
    values = {"kind": "safetensors", "upload_key": "k", "upload_sha256": version, "actor": "key_1"}
    row, new = registry.upload(session, name="namm", version=version, **values)
    assert new
    if verify:
        registry.mark_verified(session, row, blob_key=f"b/{version}", sha256=f"sha-{version}", manifest={})
    return row
