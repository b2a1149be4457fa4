"""The schema's history and the functions that walk it. `python -m migrations` upgrades a database."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text

LOCK = 7_041_966_315  # any fixed number: two processes that migrate at once take turns


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Brings the database at this SQLAlchemy URL up to a revision, in one transaction."""
    _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Takes the database back to a revision; `base` is an empty one. Data in dropped tables is gone."""
    _run(url, lambda config: command.downgrade(config, revision))


def check(url: str) -> None:
    """Raises alembic.util.exc.CommandError when the models and the migrations describe different schemas."""
    _run(url, command.check)


def _run(url: str, act: Callable[[Config], object]) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            act(_config(connection))
    finally:
        engine.dispose()
