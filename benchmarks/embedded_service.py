"""The service's database and one of its worker processes, on embedded servers that are removed afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import migrations
from palimpsest.embedded.servers import EmbeddedServers
from store import log, tenants, workers
from store.database import Database
from store.settings import Settings
from worker.engine.process import WorkerProcess


@contextmanager
def embedded_postgres() -> Iterator[tuple[str, Path]]:
    """URL of an empty, migrated database without durability, and a temporary folder for data."""
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as folder:
        servers = EmbeddedServers(Path(folder) / "servers", durable=False)
        try:
            servers.start(redis=False)
            migrations.upgrade(servers.database_url)
            yield servers.database_url, Path(folder)
        finally:
            servers.destroy()


@contextmanager
def worker_process(**values: object) -> Iterator[WorkerProcess]:
    """A registered worker process with these settings. Its model is not loaded yet."""
    with embedded_postgres() as (url, folder):
        defaults = {"DATABASE_URL": url, "data_dir": folder, "log_level": "ERROR"}
        config = Settings.model_validate(defaults | values)
        log.configure(config)
        database = Database(config.database)
        with database.session() as session:
            workers.register(session, "wrk_bench", "here", "cpu")
            tenants.ensure(session)
        yield WorkerProcess(config, database, "wrk_bench")
        database.close()
