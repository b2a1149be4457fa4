"""The command `palimpsest`: runs the service on this machine, and uses a service over REST."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from palimpsest.commands import (
    budgets,
    bulk,
    collections,
    jobs,
    keys,
    ledger,
    models,
    prices,
    schedules,
    scorers,
    templates,
    webhooks,
)
from palimpsest.commands.common import LocalData, console, out
from palimpsest.commands.demo.command import demo
from palimpsest.commands.evolve import evolve
from palimpsest.commands.groups import ADMINISTRATION, BULK, JOBS, MONEY, RUN, SCORERS, PanelGroup
from palimpsest.commands.report import report
from palimpsest.embedded.account import EmbeddedError
from palimpsest.machine.data_directory import LocalError, data_directory
from palimpsest.machine.supervisor import Service, Supervisor

app = typer.Typer(
    cls=PanelGroup,
    help="Read million-token documents with a Llama whose KV cache is pruned by an evolved scorer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _main() -> None:
    # SIGTERM acts like Ctrl-C, so that everything is stopped in order. `up` has handlers of its own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@app.command(rich_help_panel=RUN)
def up(
    data: LocalData = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)
    ] = 8080,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    place = data_directory(data)
    supervisor = Supervisor(place, host=host, port=port, say=_say)
    with _interruptible(supervisor.kill_children) as wait:
        try:
            service = supervisor.start()
            _welcome(service)
            wait()
        except KeyboardInterrupt:
            _say("Stopping the worker, API, loops, Redis and PostgreSQL (press Ctrl-C again to kill them)")
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
        out.print(f"API key, shown only once: {service.first_key}", markup=False)
    out.print(
        "To create another key: palimpsest key create\n\n"
        f"curl -s {service.base_url}/v1/jobs -H 'Authorization: Bearer {key}' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        """  -d '{"text": "The meeting is on Tuesday.", "questions": ["When is the meeting?"]}'\n\n"""
        f"Logs: {service.logs}",
        markup=False,
    )
    # A program that reads this through a pipe waits for these lines.
    sys.stdout.flush()


@contextmanager
def _interruptible(interrupt_again: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """The first Ctrl-C or SIGTERM raises KeyboardInterrupt; later ones call `interrupt_again`."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            interrupt_again()
            return
        asked = True
        raise KeyboardInterrupt

    # SIGHUP only if it is not ignored already, as it is under nohup.
    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield _wait_for_ever
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_ever() -> None:
    while True:
        signal.pause()


app.command(rich_help_panel=RUN)(demo)
app.add_typer(models.app, name="model", rich_help_panel=RUN)
jobs.add_commands(app, rich_help_panel=JOBS)
app.add_typer(jobs.app, name="job", rich_help_panel=JOBS)
app.add_typer(
    bulk.app,
    name="bulk",
    short_help="Summarize or question every document of a folder or collection; manage bulk jobs.",
    rich_help_panel=BULK,
)
app.add_typer(collections.app, name="collection", rich_help_panel=BULK)
app.add_typer(templates.app, name="template", rich_help_panel=BULK)
app.add_typer(schedules.app, name="schedule", rich_help_panel=BULK)
app.add_typer(scorers.app, name="scorer", rich_help_panel=SCORERS)
app.command(rich_help_panel=SCORERS)(evolve)
app.command(rich_help_panel=MONEY)(report)
app.add_typer(budgets.app, name="budget", rich_help_panel=MONEY)
app.add_typer(prices.app, name="price", rich_help_panel=MONEY)
app.add_typer(ledger.app, name="ledger", rich_help_panel=MONEY)
app.add_typer(keys.app, name="key", rich_help_panel=ADMINISTRATION)
app.add_typer(webhooks.app, name="webhook", rich_help_panel=ADMINISTRATION)

# Former names of these groups, kept for scripts.
for former, group in (("keys", keys), ("budgets", budgets), ("bulks", bulk), ("prices", prices)):
    app.add_typer(group.app, name=former, hidden=True)

if __name__ == "__main__":
    app()
