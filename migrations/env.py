"""Alembic's entry: within the transaction of `migrations.upgrade`, or on the URL of a configuration file."""

from alembic import context
from sqlalchemy import Connection, NullPool, create_engine

from store import tables  # noqa: F401  importing it fills the metadata
from store.tables.base import Base


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    url = context.config.get_main_option("sqlalchemy.url") or ""
    with create_engine(url, poolclass=NullPool).connect() as opened:
        migrate(opened)
