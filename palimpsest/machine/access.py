"""What is done in the database itself, on the machine that has it: API keys, and a clean start."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from palimpsest.machine.data_directory import LocalError, read_cli_key, write_private
from store import database, tenants, workers
from store.errors import NotFound, StoreError
from store.settings import Settings
from store.tables.tenants import ApiKey
from store.tenants import api_keys

DEFAULT_PROJECT = "default"


@dataclass(frozen=True)
class Access:
    """`cli_key` is this machine's own; `first_key` is set only when the database had no key before."""

    cli_key: str
    first_key: str | None


@contextmanager
def transaction(settings: Settings) -> Iterator[Session]:
    """One transaction on the settings' database. Raises LocalError for what the store or Postgres refuses."""
    try:
        connection = database.connect(settings)
        try:
            with connection.session() as session:
                yield session
        finally:
            connection.close()
    except StoreError as error:
        raise LocalError(str(error)) from None
    except (OperationalError, DataError) as error:
        raise LocalError(f"The database refuses: {error.orig}") from None


def create_key(
    settings: Settings,
    name: str,
    tenant: str | None = None,
    project: str = DEFAULT_PROJECT,
    *,
    admin: bool = False,
) -> str:
    """Make a key and give it; it cannot be had again. `tenant` is a name and is made if there is none."""
    connection = database.connect(settings)
    try:
        with connection.session() as session:
            tenant_id = tenants.ensure(session, *(() if tenant is None else (_tenant_id(tenant), tenant)))
            return api_keys.create(session, tenant_id, name, settings.pepper, project=project, admin=admin)[1]
    finally:
        connection.close()


def list_keys(settings: Settings, tenant: str | None = None) -> list[ApiKey]:
    """The rows of a tenant's keys, newest first; none holds the key itself."""
    connection = database.connect(settings)
    try:
        with connection.session() as session:
            return api_keys.list_keys(session, _tenant_id(tenant))
    finally:
        connection.close()


def revoke_key(settings: Settings, key_id: str, tenant: str | None = None) -> None:
    """End a key at once. Raises LocalError when the tenant has none of this id."""
    connection = database.connect(settings)
    try:
        with connection.session() as session:
            api_keys.revoke(session, _tenant_id(tenant), key_id)
    except NotFound:
        message = f"The tenant has no key {key_id}: 'palimpsest keys list' shows the ids."
        raise LocalError(message) from None
    finally:
        connection.close()


def _tenant_id(tenant: str | None) -> str:
    return tenants.DEFAULT_TENANT if tenant is None else f"ten_{tenant}"


def forget_workers(settings: Settings) -> None:
    """Forget the workers of before: killed ones would count as live for a while."""
    connection = database.connect(settings)
    try:
        with connection.session() as session:
            workers.delete_all(session)
    finally:
        connection.close()


def prepare(settings: Settings, data: Path) -> Access:
    """Make sure that the command line of this machine has a valid key, and that the owner got a first one.

    Both are an admin's: whoever can read this machine's database needs no key to change it.
    """
    connection = database.connect(settings)
    try:
        with connection.session() as session:
            tenant_id = tenants.ensure(session)
            fresh = not api_keys.list_keys(session, tenant_id)
            first_key = None
            if fresh:
                first_key = api_keys.create(session, tenant_id, "first", settings.pepper, admin=True)[1]
            cli_key = read_cli_key(data)
            row = api_keys.authenticate(session, cli_key, settings.pepper) if cli_key is not None else None
            if cli_key is None or row is None:
                cli_key = api_keys.create(session, tenant_id, "command line", settings.pepper, admin=True)[1]
                write_private(data / "cli_key", cli_key + "\n")
            else:
                row.admin = True  # one made before there were admins
    finally:
        connection.close()
    return Access(cli_key, first_key)
