"""Scorers uploaded, verified and activated over HTTP."""

import json
from pathlib import Path
from typing import Any

import httpx

from store.scorers import registry
from tests.conftest import Api
from tests.support.scorer_files import TENSORS, manifest


def send(
    client: httpx.Client, name: str = "mine", version: str | None = None, **parts: Any
) -> httpx.Response:
    """Uploads parts, good ones of version 1 unless they are given."""
    if not parts:
        parts = {"scorer": TENSORS, "manifest": manifest(name)}
    content = {
        part: ("f", value if isinstance(value, bytes) else json.dumps(value).encode())
        for part, value in parts.items()
    }
    data = {} if version is None else {"version": version}
    return client.post(f"/v1/scorers/{name}/versions", files=content, data=data)


def verify(api: Api, *versions: str, name: str = "mine", **changes: Any) -> None:
    """What a worker does, without looking: the versions are uploaded, verified and stored."""
    for version in versions:
        made = manifest(name, version, **changes)
        for file, content in {
            "scorer.safetensors": TENSORS,
            "manifest.json": json.dumps(made).encode(),
        }.items():
            path = f"{api.settings.blobs}/scorers/{name}/{version}"
            _write(f"{path}/{file}", content)
        with api.database.session() as session:
            row, _ = registry.upload(
                session,
                name=name,
                version=version,
                kind="safetensors",
                upload_key="k",
                upload_sha256=version,
                actor="key_1",
            )
            registry.mark_verified(
                session,
                row,
                blob_key=f"scorers/{name}/{version}",
                sha256=str(made["sha256"]),
                manifest=made,
            )


def _write(path: str, content: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)


def activate(client: httpx.Client, version: str, **body: Any) -> httpx.Response:
    return client.post("/v1/scorers/mine/activations", json={"version": version} | body)
