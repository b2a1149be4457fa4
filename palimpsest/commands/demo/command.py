"""`palimpsest demo`: a business document under a real Llama, and a million tokens, with cost and savings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from namm_runtime.bundled import MODELS
from namm_runtime.model import command
from namm_runtime.model.catalogue import KNOWN
from palimpsest.commands.common import CacheBudget, reporting_errors
from palimpsest.commands.demo import million, three_ways
from palimpsest.commands.demo.job import MIB, answered_with, console, one_line, print_bill, run
from palimpsest.commands.demo.questions import load
from palimpsest.embedded.account import EmbeddedError
from palimpsest.machine.data_directory import data_directory
from palimpsest.machine.default_model import RECOMMENDED
from palimpsest.machine.supervisor import running
from palimpsest_client import Client
from store.settings import Settings

SUMMARIZES = ("qwen2.5-coder-1.5b",)  # by name, also of a directory; smaller ones are fluent and wrong


def demo(
    doc: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="A UTF-8 text file of your own, instead of the steps."
        ),
    ] = None,
    ask: Annotated[list[str] | None, typer.Option(help="A question about --doc; repeatable.")] = None,
    model: Annotated[
        str,
        typer.Option(
            help="A name from `palimpsest model list`, fetched if need be, or a directory. With `bundled`, "
            "only the million tokens are read.",
            envvar="PALIMPSEST_MODEL",
        ),
    ] = RECOMMENDED,
    policy: Annotated[
        str | None, typer.Option(help="Policy that prunes the KV cache. Default: one for each step.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1000, help="Length of the assembled document in tokens.")
    ] = 1_000_000,
    cache_budget: CacheBudget = None,
    max_output_tokens: Annotated[
        int, typer.Option(help="Limit of output tokens for each answer about --doc.")
    ] = 48,
    data: Annotated[Path | None, typer.Option(help="Data directory, as for `palimpsest up`.")] = None,
) -> None:
    """Fetch a small Llama, ask it about a contract, and read a million tokens; print answers and cost."""
    if (doc is None) != (not ask):
        raise typer.BadParameter("--doc and --ask require each other (make demo DOC=path ASK='…')")
    clock = _Clock()
    try:
        with reporting_errors():
            if model not in MODELS:
                _title("A real Llama")
                fetch(model, data)
                clock.lap("model")
            if doc is not None and ask:
                with _service(data, model) as client:
                    ask_own(client, doc, ask, policy, cache_budget, max_output_tokens)
                clock.lap("document")
            else:
                if model not in MODELS:
                    _title("A contract and questions about it: full cache, guided, open")
                    with _service(data, model) as client:
                        readings = three_ways.compare(client, load(), policy, cache_budget)
                        if Path(model).name in SUMMARIZES:
                            three_ways.summarize(client, readings)
                    clock.lap("contract")
                _title(f"{tokens:,} tokens under the bundled model")
                with _service(data, "bundled") as client:
                    million.ask_planted(client, tokens, policy, cache_budget)
                clock.lap(f"{tokens:,} tokens")
    except EmbeddedError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from None
    clock.tell()
    console.print(
        "The jobs are kept in Postgres: run `palimpsest up`, then `palimpsest jobs` and `palimpsest cost ID`."
    )


def fetch(model: str, data: Path | None) -> None:
    """Fetch a known model into the data directory, as `palimpsest model add` does. Anything else is left to
    the worker."""
    if model not in KNOWN:
        return
    try:
        command.add_model(model, Settings(data_dir=data_directory(data)).models)
    except typer.Exit:
        console.print("Without a real model: make demo MODEL=bundled")
        raise


def ask_own(
    client: Client,
    path: Path,
    questions: list[str],
    policy: str | None,
    cache_budget: int | None,
    output_tokens: int,
) -> None:
    """Ask the service about the user's own file. Raises LocalError if the job did not succeed."""
    console.print(f"POST /v1/documents  {path.stat().st_size / MIB:.1f} MiB")
    job, result = run(
        client,
        document_id=client.upload(path)["id"],
        questions=questions,
        policy=policy,
        cache_budget=cache_budget,
        max_output_tokens=output_tokens,
    )
    for answer in result["answers"]:
        console.print(f"[bold]{one_line(answer['prompt'])}[/] {one_line(answer['text'])}")
    console.print(f"\nanswered by {answered_with(job)}")
    if job["model"] in MODELS:
        console.print("The bundled model only completes lines it has read (Invoice 4821 total: …).")
    print_bill(client, job)


@contextmanager
def _service(data: Path | None, model: str) -> Iterator[Client]:
    """The whole service with a worker that serves `model`."""
    place = str(Path(model).absolute()) if model not in KNOWN and Path(model).exists() else model
    environment = {"PALIMPSEST_MODEL": place}
    with (
        running(
            data, say=lambda sentence: console.print(f"==> {sentence}", markup=False), environment=environment
        ) as service,
        Client(service.base_url, service.api_key) as client,
    ):
        yield client


def _title(text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


class _Clock:
    """Measures how long each part took."""

    def __init__(self) -> None:
        self._begun = self._lap = time.monotonic()
        self._laps: list[str] = []

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.monotonic()
        self._laps.append(f"{name} {now - self._lap:.0f} s")
        self._lap = now

    def tell(self) -> None:
        """Print the parts and their sum."""
        total = time.monotonic() - self._begun
        console.print(f"total time: {total:.0f} s (measured; {', '.join(self._laps)})")
