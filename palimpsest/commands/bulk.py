"""`palimpsest bulk`: one task for every document of a folder or collection, over REST."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.commands import bulk_views, folder_sync
from palimpsest.commands.bulk_check import check
from palimpsest.commands.common import (
    AsJson,
    CacheBudget,
    Data,
    OnRisk,
    Reading,
    connected,
    console,
    out,
    print_json,
    wide,
)
from palimpsest.commands.groups import DefaultCommandGroup
from palimpsest.machine.data_directory import LocalError
from palimpsest_client import Client, drop_none

DIGEST = "digest.md"
FILES = frozenset({"documents.jsonl", DIGEST, "totals.json"})
INTERRUPTED = 130  # the exit code that a shell reports for Ctrl-C

app = typer.Typer(
    cls=DefaultCommandGroup,
    help="Run one task on every document of a folder or collection, and manage bulk jobs.\n\n"
    "`palimpsest bulk SOURCE` is short for `palimpsest bulk run SOURCE`. "
    "Write ./NAME for a folder whose name is one of the commands below.",
    no_args_is_help=True,
    subcommand_metavar="SOURCE | COMMAND [ARGS]...",
)

BulkId = Annotated[str, typer.Argument(help="Id, for example bulk_06f3k2v5r8c4x1m7d9a0b2e6g8.", metavar="ID")]
To = Annotated[
    str | None,
    typer.Option(help="Destination of the bundle: a local folder, or a URL that the service may write to."),
]
Here = Annotated[Path | None, typer.Option("--to", file_okay=False, help="Local folder for the bundle.")]


@app.command()
def run(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A local folder (new and changed files are uploaded) or a URL that the service can read.",
            metavar="SOURCE",
        ),
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Name or id of a collection, instead of SOURCE.")
    ] = None,
    task: Annotated[str, typer.Option(help="summarize or ask.")] = "summarize",
    to: To = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt template of summaries: NAME or NAME@VERSION.")
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="Number of key points in each summary; default: 5.")
    ] = None,
    words: Annotated[int | None, typer.Option(help="Length of each summary in words.")] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="A question to ask about every document; repeatable.")
    ] = None,
    glob: Annotated[
        str | None, typer.Option(help="Only paths below SOURCE that match, for example '**/*.txt'.")
    ] = None,
    only_changed: Annotated[
        bool,
        typer.Option("--only-changed", help="Skip documents that were done before and have not changed."),
    ] = False,
    map_reduce: Annotated[
        bool, typer.Option("--map-reduce", help="Read long documents in parts and combine the answers.")
    ] = False,
    no_digest: Annotated[bool, typer.Option("--no-digest", help="Do not summarize the summaries.")] = False,
    model: Annotated[str | None, typer.Option(help="Model, as listed by GET /v1/models.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy that prunes the KV cache.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Scorer: NAME or NAME@VERSION.")] = None,
    cache_budget: CacheBudget = None,
    reading: Reading = None,
    on_risk: OnRisk = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(help="Limit of output tokens for each prompt.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the collection for a local folder; default: the folder's name."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the bulk job's id and exit without waiting.")
    ] = False,
    data: Data = None,
) -> None:
    """Run one task on every document of a folder or collection and wait for the results.

    Without --to the digest is printed. The exit code is 0 if every document succeeded.
    """
    if (source is None) == (collection is None):
        raise typer.BadParameter("give SOURCE or --collection")
    is_folder = source is not None and "://" not in source
    if name is not None and not is_folder:
        raise typer.BadParameter("is only for a local folder", param_hint="--name")
    here = Path(to) if to is not None and "://" not in to else None
    if here is not None and detach:
        raise typer.BadParameter(
            "a local folder is written at the end: omit --detach, or use 'palimpsest bulk fetch' later"
        )
    if task not in ("summarize", "ask"):
        raise typer.BadParameter(f"must be summarize or ask, not '{task}'", param_hint="--task")
    if here is not None:
        _make_writable(here)
    with connected(data) as client:
        where: dict[str, Any] = {"collection": collection, "source": source, "glob": glob}
        complete = True
        if is_folder:
            collection_id, complete = _sync(client, Path(source or ""), name, glob)
            where = {"collection": collection_id}
        asked = {
            "task": task,
            "template": template,
            "points": points,
            "words": words,
            "questions": question,
            "model": model,
            "policy": policy,
            "scorer": scorer,
            "cache_budget": cache_budget,
            "reading": reading,
            "on_risk": on_risk,
            "max_output_tokens": max_output_tokens,
        }
        begun = client.begin_bulk(
            **where,
            job=drop_none(asked),
            strategy="map_reduce" if map_reduce else "whole",
            only_changed=only_changed,
            digest=False if no_digest else None,
            to=to if here is None else None,
        )
        if detach:
            return out.print(begun["id"], markup=False)
        console.print(f"{begun['id']} over {begun['collection']}", markup=False)
        _follow_to_end(client, begun["id"], here, complete=complete, show=to is None)


def _sync(client: Client, folder: Path, name: str | None, glob: str | None) -> tuple[str, bool]:
    """Upload new and changed files; returns the collection's id, and whether it holds the whole folder."""
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise LocalError(
            f"There is no local folder {folder}. A location that the service reads is given as a URL."
        )
    named = name or folder.name
    if not named or "/" in named:
        raise LocalError(f"'{named}' is not a valid collection name: choose a --name without '/'.")
    with console.status("") as status:
        found = folder_sync.sync(client, folder, named, glob, lambda line: status.update(_escaped(line)))
    for path, why in found.unreadable.items():
        console.print(f"{path} is skipped: {why}", markup=False)
    console.print(
        f"Collection '{named}': {len(found.uploaded):,} uploaded, {len(found.same):,} unchanged, "
        f"{len(found.removed):,} removed, {len(found.unreadable):,} unreadable",
        markup=False,
    )
    return found.collection_id, not found.unreadable


def _escaped(line: str) -> str:
    return line.replace("[", "\\[")


def _follow_to_end(client: Client, bulk_id: str, here: Path | None, *, complete: bool, show: bool) -> None:
    """Show progress, then fetch the bundle. Exits with code 1 unless every document succeeded."""
    with _detached_on_interrupt(bulk_id, here):
        ended = bulk_views.follow(client, bulk_id)
    console.print(bulk_views.ending(ended), markup=False)
    states = ended["progress"]["states"]
    if states.get("failed"):
        for line in bulk_views.failures(client, bulk_id):
            console.print(line, markup=False)
    if here is not None and ended["bundle"]:
        _fetch(client, ended, here)
    elif show and ended["bundle"]:
        _print_digest(client, bulk_id)
    if ended["delivery_error"]:
        console.print(
            f"The bundle was not delivered: {ended['delivery_error']}. It can still be fetched.", markup=False
        )
    done = ended["state"] == "succeeded" and states.keys() <= {"succeeded"} and not ended["delivery_error"]
    if not (done and complete):
        raise typer.Exit(1)


@contextmanager
def _detached_on_interrupt(bulk_id: str, here: Path | None) -> Iterator[None]:
    """Ctrl-C leaves the bulk job running and prints how to return to it."""
    try:
        yield
    except KeyboardInterrupt:
        to = f" --to {here}" if here is not None else ""
        console.print(
            f"\nThe bulk job continues. To watch it: palimpsest bulk watch {bulk_id}{to}\n"
            f"To cancel it: palimpsest bulk cancel {bulk_id}",
            markup=False,
        )
        raise typer.Exit(INTERRUPTED) from None


def _make_writable(here: Path) -> None:
    """Check the folder before hours of work rather than after. Raises LocalError."""
    try:
        here.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        raise LocalError(f"{here} cannot be written: {error.strerror}.") from None


def _fetch(client: Client, bulk: dict[str, Any], here: Path) -> None:
    try:
        here.mkdir(parents=True, exist_ok=True)
        for name in sorted(FILES.intersection(bulk["bundle"])):  # never a path of the service's choosing
            client.fetch_bundle(bulk["id"], name, here / name)
            out.print(str(here / name), markup=False)
    except OSError as error:
        again = f"palimpsest bulk fetch {bulk['id']} --to FOLDER"
        raise LocalError(f"{here} cannot be written: {error.strerror}. To try again: {again}") from None


def _print_digest(client: Client, bulk_id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / DIGEST
        client.fetch_bundle(bulk_id, DIGEST, file)
        out.print(file.read_text(encoding="utf-8"), markup=False, end="")


@app.command("list")
def list_bulks(
    state: Annotated[str | None, typer.Option(help="Only bulk jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """List bulk jobs, newest first."""
    with connected(data) as client:
        page = client.bulks(state=state, limit=limit)
        print_json(page) if as_json else wide.print(bulk_views.table(page["data"]))


@app.command()
def show(bulk_id: BulkId, as_json: AsJson = False, data: Data = None) -> None:
    """Show a bulk job's state, its cost and the documents that failed."""
    with connected(data) as client:
        found = client.bulk(bulk_id)
        if as_json:
            return print_json(found)
        for line in bulk_views.details(client, found):
            out.print(line, markup=False)


@app.command()
def watch(bulk_id: BulkId, to: Here = None, data: Data = None) -> None:
    """Show a bulk job's progress until it ends, then fetch its bundle; exit codes are those of `bulk run`."""
    with connected(data) as client:
        _follow_to_end(client, bulk_id, to, complete=True, show=False)


@app.command()
def cancel(bulk_id: BulkId, data: Data = None) -> None:
    """Cancel a bulk job; finished documents are still put into a bundle."""
    with connected(data) as client:
        found = client.cancel_bulk(bulk_id)
        out.print(f"{bulk_id} {found['state']}", markup=False)


@app.command()
def retry(bulk_id: BulkId, data: Data = None) -> None:
    """Retry the documents that did not succeed, and write a new bundle."""
    with connected(data) as client:
        found = client.retry_bulk(bulk_id)
        out.print(f"{bulk_id} {found['state']}, round {found['round']}", markup=False)


@app.command()
def fetch(
    bulk_id: BulkId,
    to: Annotated[Path, typer.Option("--to", file_okay=False, help="Local folder.")] = Path("."),
    data: Data = None,
) -> None:
    """Download the bundle: documents.jsonl, digest.md and totals.json."""
    with connected(data) as client:
        found = client.bulk(bulk_id)
        if not found["bundle"]:
            raise LocalError(f"{bulk_id} is {found['state']} and has no bundle yet.")
        _fetch(client, found, to)


app.command()(check)
