"""Shared by all commands: consoles, options, the connection, and the reporting of errors."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from palimpsest.machine.data_directory import LocalError, data_directory, read_cli_key, read_running
from palimpsest_client import ApiError, Client

POLL_SECONDS = 0.5


console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


out = Console(highlight=False, emoji=False, soft_wrap=True)


# For tables: a line that is too long for the terminal wraps instead of being cut.
wide = Console(highlight=False, emoji=False, soft_wrap=True, width=1000)


Data = Annotated[
    Path | None,
    typer.Option(
        help="Data directory of the local service; PALIMPSEST_URL and PALIMPSEST_API_KEY take precedence."
    ),
]


# For commands that use the database directly.
LocalData = Annotated[
    Path | None,
    typer.Option(help="Data directory; default: PALIMPSEST_DATA_DIR, or ~/.local/share/palimpsest."),
]
CacheBudget = Annotated[
    int | None,
    typer.Option("--cache-budget", "--budget", help="Cache slots each KV head may keep; formerly --budget."),
]
Reading = Annotated[
    str | None,
    typer.Option(
        help="guided by the prompts, or open, as if they were not known yet; default: the service's."
    ),
]
OnRisk = Annotated[
    str | None,
    typer.Option(
        help="If much of what a prompt attends to was evicted: report it, or reread with a larger cache."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's response as JSON.")]


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Expected errors end the command with a one-sentence message and exit code 1."""
    try:
        yield
    except ApiError as error:
        console.print(f"{error.code}: {error}", markup=False)
        raise typer.Exit(1) from None
    except LocalError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from None
    except httpx.TransportError as error:
        console.print(f"The service does not respond: {error}", markup=False)
        raise typer.Exit(1) from None


@contextmanager
def connected(data: Path | None) -> Iterator[Client]:
    """A client for the configured or local service; errors are reported."""
    with reporting_errors():
        place = data_directory(data)
        running = read_running(place)
        url = os.environ.get("PALIMPSEST_URL") or (running.url if running else None)
        if url is None:
            raise LocalError(
                f"No service is running on {place}. Start 'palimpsest up', or set PALIMPSEST_URL."
            )
        # The data directory's key is only for its own service and is never sent to another address.
        own = read_cli_key(place) if running and url == running.url else None
        key = os.environ.get("PALIMPSEST_API_KEY") or own
        if key is None:
            raise LocalError(f"Set PALIMPSEST_API_KEY to an API key for {url}.")
        with Client(url, key) as client:
            yield client


def print_json(value: Any) -> None:
    """Print a response of the API as JSON."""
    out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


def read_json(file: Path) -> Any:
    """The value in a JSON file. Raises LocalError if it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise LocalError(f"{file} is not valid JSON: {error}.") from None


def read_json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises LocalError if it cannot be read or holds another kind of value."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise LocalError(f"{file} does not contain a JSON object.")
    return found
