"""A place for the data of `palimpsest up`."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from palimpsest.embedded.servers import EmbeddedServers
from tests.support.up import processes_of


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that only its owner may enter, for the data; everything is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="palimpsest-up-"))
    yield directory
    for data in (directory / "data", directory / "other"):
        if data.exists():
            for process in processes_of(data):
                process.kill()
            EmbeddedServers(data).destroy()
    shutil.rmtree(directory)
