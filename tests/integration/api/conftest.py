"""Bulk work over real HTTP: an API with its conductor, and documents to work on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bulk_bench import TEXTS, BulkBench, bulk_bench


@pytest.fixture
def bench(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BulkBench]:
    with bulk_bench(database_url, redis_url, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def collection(bench: BulkBench) -> dict[str, Any]:
    """Made by hand, of three uploads."""
    made = bench.client.post("/v1/collections", json={"name": "letters"})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/collections/{made.json()['id']}"
    documents = [{"document_id": bench.upload(body), "path": path} for path, body in TEXTS.items()]
    added = bench.client.post("/v1/collections/letters/documents", json={"documents": documents})
    assert added.json()["documents"] == 3
    found: dict[str, Any] = added.json()
    return found


@pytest.fixture
def folder(bench: BulkBench) -> Path:
    for path, body in TEXTS.items():
        (bench.source / path).write_text(body)
    return bench.source
