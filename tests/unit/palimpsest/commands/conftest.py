"""A made-up service, and `palimpsest scorer` that uses it."""

from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.commands import common, scorers
from palimpsest_client import Client
from tests.support.scorer_service import ENVIRONMENT, Palimpsest, Service


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    transport = httpx.MockTransport(made)
    monkeypatch.setattr(common, "Client", lambda url, key: Client(url, key, transport))
    monkeypatch.setattr(scorers, "POLL_SECONDS", 0)
    return made


@pytest.fixture
def palimpsest(tmp_path: Path) -> Palimpsest:
    def run(*arguments: str) -> Result:
        environment = ENVIRONMENT | {"PALIMPSEST_DATA_DIR": str(tmp_path / "data")}
        return CliRunner().invoke(app, ["scorer", *arguments], env=environment)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scorer.safetensors").write_bytes(b"\x00weights")
    (tmp_path / "mine" / "manifest.json").write_text('{"name": "namm", "version": "3"}')
    return tmp_path / "mine"
