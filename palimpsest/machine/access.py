"""Operations directly on the database: API keys, and the removal of workers of a previous run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from palimpsest.machine.data_directory import LocalError, read_cli_key
from store import database, tenants, workers
from store.atomic_files import write_text
from store.errors import NotFound, StoreError
from store.settings import Settings
from store.tables.tenants import ApiKey
from store.tenants import api_keys

DEFAULT_PROJECT = "default"


@dataclass(frozen=True)
class Access:
    """`cli_key` is the command line's own key; `first_key` is set only if the database had no key before."""

    cli_key: str
    first_key: str | None


@contextmanager
def transaction(settings: Settings) -> Iterator[Session]:
    """One transaction on the configured database.

    Raises LocalError for errors of the store and of Postgres.
    """
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
        raise LocalError(f"The database reported an error: {error.orig}") from None


def create_key(
    settings: Settings,
    name: str,
    tenant: str | None = None,
    project: str = DEFAULT_PROJECT,
    *,
    admin: bool = False,
) -> str:
    """Create a key and return it; it cannot be retrieved later. A `tenant` that does not exist is created.

    Raises LocalError.
    """
    with transaction(settings) as session:
        tenant_id = tenants.ensure(session, *(() if tenant is None else (_tenant_id(tenant), tenant)))
        return api_keys.create(session, tenant_id, name, settings.pepper, project=project, admin=admin)[1]


def list_keys(settings: Settings, tenant: str | None = None) -> list[ApiKey]:
    """The rows of a tenant's keys, newest first; they do not contain the keys. Raises LocalError."""
    with transaction(settings) as session:
        return api_keys.list_keys(session, _tenant_id(tenant))


def revoke_key(settings: Settings, key_id: str, tenant: str | None = None) -> None:
    """Revoke a key immediately. Raises LocalError if the tenant has no key with this id."""
    with transaction(settings) as session:
        try:
            api_keys.revoke(session, _tenant_id(tenant), key_id)
        except NotFound:
            message = f"There is no API key {key_id}; 'palimpsest key list' shows the ids."
            raise LocalError(message) from None


def _tenant_id(tenant: str | None) -> str:
    return tenants.DEFAULT_TENANT if tenant is None else f"ten_{tenant}"


def forget_workers(settings: Settings) -> None:
    """Remove the workers of a previous run; killed ones would count as live for a while.

    Raises LocalError.
    """
    with transaction(settings) as session:
        workers.delete_all(session)


def prepare(settings: Settings, data: Path) -> Access:
    """Ensure that the command line of this machine has a valid key, and create the owner's first key.

    Both are admin keys: whoever can read this machine's database needs no key to change it.

    Raises LocalError.
    """
    with transaction(settings) as session:
        tenant_id = tenants.ensure(session)
        fresh = not api_keys.list_keys(session, tenant_id)
        first_key = None
        if fresh:
            first_key = api_keys.create(session, tenant_id, "first", settings.pepper, admin=True)[1]
        cli_key = read_cli_key(data)
        row = api_keys.authenticate(session, cli_key, settings.pepper) if cli_key is not None else None
        if cli_key is None or row is None:
            cli_key = api_keys.create(session, tenant_id, "command line", settings.pepper, admin=True)[1]
            write_text(data / "cli_key", cli_key + "\n", mode=0o600)
        else:
            row.admin = True  # a key created before admin keys existed
    return Access(cli_key, first_key)
