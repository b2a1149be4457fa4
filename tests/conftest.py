"""Real servers for every test: one embedded PostgreSQL and Redis a session, a fresh database a test."""

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis
import uvicorn

# One core for torch, here and in every process that a test starts: small models gain nothing from a second,
# and where cores are short its threads wait for each other (decision 012). Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# pytest-xdist sets it, and Rich would read it once, when the command line is imported.
os.environ.pop("COLUMNS", None)

import migrations
from api.app import create_app
from palimpsest.embedded.servers import EmbeddedServers
from store import tenants, workers
from store.database import Database
from store.settings import Settings
from store.tenants import DEFAULT_TENANT, api_keys
from store.workers import ModelCard

TEMPLATE = "palimpsest_template"
# Where most of the time goes; `make test-fast` leaves it out.
SLOW = (
    "tests/benchmarks/",
    "namm_runtime/attention/kernels/",
    "namm_runtime/bundled/",
    "namm_runtime/engine/test_engine.py",
    "namm_runtime/engine/test_resume.py",
    "namm_runtime/evaluate/",
    "namm_runtime/evolve/",
    "namm_runtime/model/test_fetching.py",
    "namm_runtime/model/test_large_models.py",
    "namm_runtime/training/",
    "namm_runtime/test_verify.py",
    "palimpsest/test_evolve.py",
    "tests/real_llama/",
)
HERD = "herd"  # the group, and the marker, of tests that start herds of processes
SCORER = {"name": "namm-key", "version": "1", "sha256": "cd" * 32}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs servers or starts herds of processes, and puts first what takes long."""
    for item in items:
        if "chaos" in item.path.parts:
            item.add_marker(pytest.mark.herd)
        if any(place in item.path.as_posix() for place in SLOW):
            item.add_marker(pytest.mark.slow)
        if "real_llama" in item.path.parts:
            item.add_marker(pytest.mark.real_llama)
        if "servers" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.servers)
    items.sort(key=lambda item: (_group(item.nodeid) != HERD, "unit/namm_runtime" not in item.nodeid))


def _group(nodeid: str) -> str:
    """Tests of one group run in one process: those of a file, and all that start herds of processes."""
    path = nodeid.partition("::")[0]
    return HERD if "/chaos/" in path or path.rpartition("/")[2].startswith("test_up") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How pytest-xdist spreads the tests, by `_group`: a file's tests share what is costly to set up."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Embedded servers of this session's own, under a short directory that their account can reach."""
    _clear_up_after_killed_sessions()
    data = Path(tempfile.gettempdir()) / f"palimpsest-tests-{os.getpid()}-{secrets.token_hex(4)}"
    running = EmbeddedServers(data, durable=False)
    try:
        yield running.start()
    finally:
        running.destroy()
        shutil.rmtree(data, ignore_errors=True)


def _clear_up_after_killed_sessions() -> None:
    """A test run that was killed leaves its servers running: the next one of the same user ends them."""
    for data in Path(tempfile.gettempdir()).glob("palimpsest-tests-*-*"):
        owner = int(data.name.split("-")[2])
        if data.stat().st_uid == os.geteuid() and not psutil.pid_exists(owner):
            EmbeddedServers(data).destroy()
            shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session")
def template_database(servers: EmbeddedServers) -> str:
    """A migrated database without connections, which the databases of the tests are copied from."""
    _administer(servers, f'CREATE DATABASE "{TEMPLATE}"')
    migrations.upgrade(servers.url_of(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(servers: EmbeddedServers, template_database: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty, migrated database that only this test sees."""
    name = f"test_{secrets.token_hex(6)}"
    _administer(servers, f'CREATE DATABASE "{name}" TEMPLATE "{template_database}" STRATEGY file_copy')
    try:
        yield servers.url_of(name)
    finally:
        _administer(servers, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def empty_database_url(servers: EmbeddedServers) -> Iterator[str]:
    """SQLAlchemy URL of a database without any table, for tests of the migrations themselves."""
    name = f"test_{secrets.token_hex(6)}"
    _administer(servers, f'CREATE DATABASE "{name}"')
    try:
        yield servers.url_of(name)
    finally:
        _administer(servers, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> Iterator[str]:
    """URL of an empty Redis, as redis-py spells it (`unix:///…`)."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
        yield servers.redis_url
        client.flushall()


def _administer(servers: EmbeddedServers, statement: str) -> None:
    url = servers.url_of("postgres").replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


@dataclass
class Api:
    """The API on a real HTTP server, over a database of its own, with one registered model."""

    url: str
    settings: Settings
    database: Database
    key: str

    def client(self, key: str | None = None) -> httpx.Client:
        """A client with a key; the fixture's own unless another is given, none for the empty string."""
        key = self.key if key is None else key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30)

    def new_key(self, tenant: str = DEFAULT_TENANT, *, admin: bool = False) -> str:
        """A key of a tenant, which is made if it is new."""
        with self.database.session() as session:
            tenants.ensure(session, tenant, tenant)
            return api_keys.create(session, tenant, "test", self.settings.pepper, admin=admin)[1]

    def stored_files(self) -> list[Path]:
        """Every file in the blob store, half-written ones too."""
        return [path for path in Path(self.settings.blobs).rglob("*") if path.is_file()]

    def register(self, card: ModelCard, worker: str = "wrk_test") -> None:
        """A live worker that serves a model."""
        with self.database.session() as session:
            workers.register(session, worker, "here", "cpu")
            workers.advertise(session, worker, card, loaded=True)


def problem(response: httpx.Response, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """Asserts that a response is this problem, in the form RFC 9457 asks for, and gives its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["type"] == f"urn:palimpsest:problem:{code}"
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == response.url.path
    assert body["request_id"] == response.headers["x-request-id"]
    if field is not None:
        assert field in [error["field"] for error in body["errors"]]
    return body


@contextmanager
def api_on(database_url: str, redis_url: str, data: Path, **more: Any) -> Iterator[Api]:
    """Small limits, so that a test reaches them: 256 KiB a document, 16 KiB inline. `more` are settings."""
    settings = Settings.model_validate(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "data_dir": data,
            "max_upload_bytes": 256 * 1024,
            "max_inline_bytes": 16 * 1024,
            "max_prompts": 4,
            **more,
        }
    )
    application = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the API did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    found = Api(f"http://127.0.0.1:{port}", settings, application.state.context.database, "")
    found.key = found.new_key()
    found.register(ModelCard("bundled", "r1", 2048, 4096, 1024, "ab" * 32, ["namm-key", "window"], [SCORER]))
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def api(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """An API that only this test uses."""
    with api_on(database_url, redis_url, tmp_path / "data") as found:
        yield found


@pytest.fixture(scope="session")
def shared_api(
    servers: EmbeddedServers, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """One API for all tests whose every request is refused: they can check that nothing was left behind."""
    _administer(servers, f'CREATE DATABASE "refusing" TEMPLATE "{template_database}"')
    with api_on(servers.url_of("refusing"), servers.redis_url, tmp_path_factory.mktemp("refusing")) as found:
        yield found


@pytest.fixture
def refusing_api(shared_api: Api) -> Api:
    """The shared one, its worker live however long ago the first test was."""
    with shared_api.database.session() as session:
        assert workers.heartbeat(session, "wrk_test")
    return shared_api
