"""`palimpsest key`: API keys, managed directly in the database."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import LocalData, out, reporting_errors
from palimpsest.machine import access
from palimpsest.machine.data_directory import settings_with

app = typer.Typer(
    help="Create, list and revoke API keys; needs access to the database.", no_args_is_help=True
)


Tenant = Annotated[str | None, typer.Option(help="Tenant of the key; default: the default tenant.")]


@app.command("create")
def create_key(
    data: LocalData = None,
    name: Annotated[str, typer.Option(help="A label to tell keys apart.")] = "made on the command line",
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Tenant of the key, created if it does not exist; lower-case letters, digits and '-'."
        ),
    ] = None,
    project: Annotated[
        str, typer.Option(help="Project that its jobs are billed to; reports can be grouped by project.")
    ] = access.DEFAULT_PROJECT,
    admin: Annotated[bool, typer.Option("--admin", help="Allow uploading and activating scorers.")] = False,
) -> None:
    """Create an API key and print it. It is shown only once: the service stores just its HMAC."""
    if tenant is not None and not (
        tenant.replace("-", "").isalnum() and tenant.islower() and len(tenant) <= 40
    ):
        raise typer.BadParameter("at most 40 lower-case letters, digits and '-'", param_hint="--tenant")
    if not (project.isprintable() and 1 <= len(project.strip()) == len(project) <= 64):
        raise typer.BadParameter("1 to 64 printable characters", param_hint="--project")
    with reporting_errors():
        key = access.create_key(settings_with(data, "DATABASE_URL"), name, tenant, project, admin=admin)
        out.print(key, markup=False)


@app.command("list")
def list_keys(data: LocalData = None, tenant: Tenant = None) -> None:
    """List a tenant's API keys, newest first."""
    with reporting_errors():
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
    key_id: Annotated[str, typer.Argument(help="Id, as shown by `palimpsest key list`.", metavar="ID")],
    data: LocalData = None,
    tenant: Tenant = None,
) -> None:
    """Revoke an API key immediately."""
    with reporting_errors():
        access.revoke_key(settings_with(data, "DATABASE_URL"), key_id, tenant)
        out.print(f"{key_id} revoked", markup=False)
