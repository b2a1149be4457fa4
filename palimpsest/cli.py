"""`palimpsest`: run the service on this machine, and use one over REST."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from palimpsest import access, budgets, bulk, collections, schedules, scorers, templates, webhooks
from palimpsest.demo import demo
from palimpsest.evolving import evolve
from palimpsest.ground import EmbeddedError
from palimpsest.ledger import ledger
from palimpsest.local import LocalError, data_directory, settings_with
from palimpsest.pricing import prices
from palimpsest.remote import commands as remote_commands
from palimpsest.remote import failing_clearly
from palimpsest.report import report
from palimpsest.supervisor import Service, Supervisor

app = typer.Typer(
    help="Reads million-token documents with a Llama whose memory is pruned by an evolved scorer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
keys = typer.Typer(help="API keys, made on the machine that has the database.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(budgets.app, name="budgets")
app.add_typer(bulk.app, name="bulks")
app.add_typer(collections.app, name="collection")
app.add_typer(schedules.app, name="schedule")
app.add_typer(scorers.app, name="scorer")
app.add_typer(templates.app, name="template")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(prices, name="prices")
app.add_typer(ledger, name="ledger")

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
out = Console(highlight=False, emoji=False, soft_wrap=True)

Data = Annotated[
    Path | None,
    typer.Option(help="Data directory; PALIMPSEST_DATA_DIR or ~/.local/share/palimpsest if left out."),
]


Tenant = Annotated[str | None, typer.Option(help="Tenant the key belongs to; the default one if left out.")]


@app.callback()
def _main() -> None:
    # A polite kill is Ctrl-C: whatever was started is stopped in order. `up` has its own way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@app.command()
def up(
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 = any free one.", min=0, max=65535)] = 8080,
) -> None:
    """Run the whole service here until Ctrl-C: PostgreSQL, Redis, API, loops and one worker."""
    place = data_directory(data)
    supervisor = Supervisor(place, host=host, port=port, say=_say)
    with _interruptible(supervisor.hurry) as wait:
        try:
            service = supervisor.start()
            _welcome(service)
            wait()
        except KeyboardInterrupt:
            _say("Stopping: worker, API, loops, Redis, PostgreSQL (again = at once)")
        except (LocalError, EmbeddedError) as error:
            console.print(str(error), markup=False)
            raise typer.Exit(1) from None
        finally:
            supervisor.stop()
    _say("Stopped")


def _say(sentence: str) -> None:
    console.print(f"==> {sentence}", markup=False)


def _welcome(service: Service) -> None:
    key = service.first_key or "$PALIMPSEST_API_KEY"
    out.print(
        f"\nPalimpsest is up: {service.base_url}  (API reference: {service.base_url}/docs)", markup=False
    )
    if service.first_key:
        out.print(f"API key, shown this once: {service.first_key}", markup=False)
    out.print(
        "Another key: palimpsest keys create\n\n"
        f"curl -s {service.base_url}/v1/jobs -H 'Authorization: Bearer {key}' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        """  -d '{"text": "The meeting is on Tuesday.", "questions": ["When is the meeting?"]}'\n\n"""
        f"Logs: {service.logs}",
        markup=False,
    )
    # Whoever reads this through a pipe waits for these lines.
    sys.stdout.flush()


@contextmanager
def _interruptible(hurry: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt once; after that they only hurry what is under way."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            hurry()
            return
        asked = True
        raise KeyboardInterrupt

    # SIGHUP only where it is not ignored already, as it is under nohup.
    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield _wait_for_ever
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_ever() -> None:
    while True:
        signal.pause()


@keys.command("create")
def create_key(
    data: Data = None,
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


@keys.command("list")
def list_keys(data: Data = None, tenant: Tenant = None) -> None:
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


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="As `palimpsest keys list` shows it.", metavar="ID")],
    data: Data = None,
    tenant: Tenant = None,
) -> None:
    """End an API key at once."""
    with failing_clearly():
        access.revoke_key(settings_with(data, "DATABASE_URL"), key_id, tenant)
        out.print(f"{key_id} revoked", markup=False)


app.command()(demo)
app.command()(evolve)
app.command()(report)
remote_commands(app)
app.command()(bulk.bulk)

if __name__ == "__main__":
    app()
