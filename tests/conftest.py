"""Real servers for every test: one embedded PostgreSQL and Redis a session, a fresh database a test."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

import migrations
from palimpsest.embedded import EmbeddedServers

TEMPLATE = "palimpsest_template"


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Embedded servers of this session's own, under a short directory that their account can reach."""
    data = Path(tempfile.gettempdir()) / f"palimpsest-tests-{secrets.token_hex(6)}"
    running = EmbeddedServers(data)
    try:
        yield running.start()
    finally:
        running.destroy()
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
    _administer(servers, f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
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
