"""What all commands share: consoles, options, the connection, and failures told in a sentence."""

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


# A line that is too long for the terminal wraps, instead of losing characters.
wide = Console(highlight=False, emoji=False, soft_wrap=True, width=1000)


Data = Annotated[
    Path | None,
    typer.Option(help="Data directory of the service on this machine; PALIMPSEST_URL and _API_KEY go first."),
]


# For commands that open the database themselves.
LocalData = Annotated[
    Path | None,
    typer.Option(help="Data directory; PALIMPSEST_DATA_DIR or ~/.local/share/palimpsest if left out."),
]
CacheBudget = Annotated[
    int | None,
    typer.Option(
        "--cache-budget", "--budget", help="Cache entries each KV head may keep; formerly --budget."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answered.")]


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Expected failures end the command with one sentence and exit code 1."""
    try:
        yield
    except ApiError as error:
        console.print(f"{error.code}: {error}", markup=False)
        raise typer.Exit(1) from None
    except LocalError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from None
    except httpx.TransportError as error:
        console.print(f"The service does not answer: {error}", markup=False)
        raise typer.Exit(1) from None


@contextmanager
def connected(data: Path | None) -> Iterator[Client]:
    """The service that is meant, and a key for it; failures are told clearly."""
    with failing_clearly():
        place = data_directory(data)
        running = read_running(place)
        url = os.environ.get("PALIMPSEST_URL") or (running.url if running else None)
        if url is None:
            raise LocalError(f"Nothing runs on {place}: start 'palimpsest up' first, or set PALIMPSEST_URL.")
        # The key of this data directory is for its own service only: it is not sent to another address.
        own = read_cli_key(place) if running and url == running.url else None
        key = os.environ.get("PALIMPSEST_API_KEY") or own
        if key is None:
            raise LocalError(f"Set PALIMPSEST_API_KEY to a key for {url}.")
        with Client(url, key) as client:
            yield client


def print_json(value: Any) -> None:
    """What the API answered, for another program."""
    out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises LocalError with the reason it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise LocalError(f"{file} is not JSON: {error}.") from None


def read_json_object(file: Path) -> dict[str, Any]:
    """The same for an object. Raises LocalError where it holds anything else."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise LocalError(f"{file} is no JSON object.")
    return found
