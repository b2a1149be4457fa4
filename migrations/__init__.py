"""The schema's history and the functions that walk it. `python -m migrations` upgrades a database."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

LOCK = 7_041_966_315  # any fixed number: two processes that migrate at once take turns
LOCK_SECONDS = 3.0  # a change waits at most so long for a table, as all other work on it queues up behind
ATTEMPTS = 5
PAUSE_SECONDS = 5.0  # between them, for the work that queued up


class SchemaLocked(Exception):
    """Another transaction kept a table that a migration changes. The schema is as it was."""


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Brings the database at this SQLAlchemy URL up to a revision, in one transaction.

    Raises SchemaLocked.
    """
    _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Takes the database back to a revision; `base` is an empty one. Data in dropped tables is gone.

    Raises SchemaLocked.
    """
    _run(url, lambda config: command.downgrade(config, revision))


def check(url: str) -> None:
    """Raises alembic.util.exc.CommandError when the models and the migrations describe different schemas."""
    _run(url, command.check)


def _run(url: str, act: Callable[[Config], object]) -> None:
    engine = create_engine(url)
    retrying = Retrying(
        retry=retry_if_exception(_is_locked),
        wait=wait_fixed(PAUSE_SECONDS),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        retrying(_attempt, engine, act)
    except OperationalError as error:
        if _is_locked(error):
            raise SchemaLocked(_explained(error)) from error
        raise
    finally:
        engine.dispose()


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and isinstance(error.orig, LockNotAvailable | DeadlockDetected)


def _attempt(engine: Engine, act: Callable[[Config], object]) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        limit = {"limit": f"{LOCK_SECONDS * 1000:.0f}ms"}
        connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), limit)
        act(_config(connection))


def _explained(error: OperationalError) -> str:
    statement = " ".join((error.statement or "").split())
    return (
        f"The schema was not changed: another transaction holds a lock that '{statement[:100]}' needs, and "
        f"kept it through {ATTEMPTS} attempts of {LOCK_SECONDS:g} s. pg_stat_activity shows long "
        "transactions: end it or wait for its end, then try again."
    )
