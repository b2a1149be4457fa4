"""The connection to Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from store.settings import Settings, settings


class Database:
    """A connection pool; `session()` is one transaction."""

    def __init__(self, url: str, pool_size: int = 5) -> None:
        # pre_ping: a restart of Postgres costs one reconnect, not one failed request per pooled connection.
        self.engine: Engine = create_engine(url, pool_size=pool_size, pool_pre_ping=True)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._sessions.begin() as session:
            yield session

    def ping(self) -> None:
        """Raises sqlalchemy.exc.OperationalError if Postgres does not answer."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Closes the pool."""
        self.engine.dispose()


def lost(error: BaseException) -> bool:
    """Whether the connection broke; a commit under way may or may not have succeeded."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def connect(config: Settings) -> Database:
    """The database that the settings name. Raises SettingMissing."""
    return Database(config.database, config.database_pool_size)


@lru_cache(maxsize=1)
def database() -> Database:
    """The database of this process."""
    return connect(settings())
