"""`palimpsest key`: API keys, made on the machine that has the database."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import LocalData, failing_clearly, out
from palimpsest.machine import access
from palimpsest.machine.data_directory import settings_with

app = typer.Typer(help="API keys, made on the machine that has the database.", no_args_is_help=True)


Tenant = Annotated[str | None, typer.Option(help="Tenant the key belongs to; the default one if left out.")]


@app.command("create")
def create_key(
    data: LocalData = None,
    name: Annotated[str, typer.Option(help="A label, to tell keys apart.")] = "made on the command line",
    tenant: Annotated[
        str | None, typer.Option(help="Tenant it belongs to, made if new; lower-case letters, digits, '-'.")
    ] = None,
    project: Annotated[
        str, typer.Option(help="What its jobs are billed under; reports can be grouped by it.")
    ] = access.DEFAULT_PROJECT,
    admin: Annotated[
        bool, typer.Option("--admin", help="May upload scorers and say which one serves whom.")
    ] = False,
) -> None:
    """Make an API key and print it: it is shown this once, and only its HMAC is stored."""
    if tenant is not None and not (
        tenant.replace("-", "").isalnum() and tenant.islower() and len(tenant) <= 40
    ):
        raise typer.BadParameter("at most 40 lower-case letters, digits and '-'", param_hint="--tenant")
    if not (project.isprintable() and 1 <= len(project.strip()) == len(project) <= 64):
        raise typer.BadParameter("1 to 64 printable characters", param_hint="--project")
    with failing_clearly():
        key = access.create_key(settings_with(data, "DATABASE_URL"), name, tenant, project, admin=admin)
        out.print(key, markup=False)


@app.command("list")
def list_keys(data: LocalData = None, tenant: Tenant = None) -> None:
    """List a tenant's API keys, newest first; the keys themselves are not stored."""
    with failing_clearly():
        table = Table(box=None, pad_edge=False)
        for heading in ("id", "name", "project", "key", "admin", "last used", "state"):
            table.add_column(heading, no_wrap=heading == "id", min_width=30 if heading == "id" else None)
        for row in access.list_keys(settings_with(data, "DATABASE_URL"), tenant):
            used = f"{row.last_used_at:%Y-%m-%d}" if row.last_used_at else ""
            state = "revoked" if row.revoked_at else ""
            shown = f"{row.prefix}…{row.last4}"
            admin = "admin" if row.admin else ""
            table.add_row(row.id, Text(row.name), Text(row.project), shown, admin, used, state)
        out.print(table)


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="As `palimpsest key list` shows it.", metavar="ID")],
    data: LocalData = None,
    tenant: Tenant = None,
) -> None:
    """End an API key at once."""
    with failing_clearly():
        access.revoke_key(settings_with(data, "DATABASE_URL"), key_id, tenant)
        out.print(f"{key_id} revoked", markup=False)
