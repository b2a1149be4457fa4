"""`palimpsest schedule`: work that begins by itself, over REST."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import (
    AsJson,
    CacheBudget,
    Data,
    connected,
    failing_clearly,
    out,
    print_json,
    read_json_object,
    wide,
)
from palimpsest.commands.schedule_body import override
from palimpsest_client import drop_none

app = typer.Typer(
    help="Jobs and bulk jobs that begin at the times of a cron expression.", no_args_is_help=True
)

ScheduleId = Annotated[
    str, typer.Argument(help="Id or name, as `palimpsest schedule list` shows them.", metavar="ID")
]
Limit = Annotated[int, typer.Option(min=1, max=100)]


@app.command("list")
def list_schedules(limit: Limit = 100, as_json: AsJson = False, data: Data = None) -> None:
    """List schedules, newest first, with when they run next."""
    with connected(data) as client:
        found = client.schedules(limit=limit)
        if as_json:
            return print_json(found)
        table = _table("id", "name", "cron", "zone", "does", "next", "state")
        for one in found["data"]:
            table.add_row(
                one["id"],
                Text(one["name"]),
                Text(one["cron"]),
                one["timezone"],
                _does(one),
                _moment(one["next_at"]),
                "paused" if one["paused_at"] else "",
            )
        wide.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table


def _does(schedule: dict[str, Any]) -> str:
    if schedule["job"]:
        return f"{schedule['job']['task']} {schedule['job']['document_id']}"
    return f"{schedule['bulk']['job']['task']} collection {schedule['bulk']['collection']}"


def _moment(moment: str | None) -> str:
    return f"{moment[:16].replace('T', ' ')} UTC" if moment else ""


@app.command("show")
def show_schedule(schedule_id: ScheduleId, as_json: AsJson = False, data: Data = None) -> None:
    """Show a schedule, and why it is paused if it is."""
    with connected(data) as client:
        one = client.schedule(schedule_id)
        if as_json:
            return print_json(one)
        table = Table(box=None, pad_edge=False, show_header=False)
        for label, value in (
            ("name", one["name"]),
            ("cron", f"{one['cron']} ({one['timezone']})"),
            ("does", _does(one)),
            ("overlap", one["overlap"]),
            ("catch up", f"{one['catch_up_seconds']} s"),
            ("jitter", f"{one['jitter_seconds']} s"),
            ("failures", f"{one['failures']} in a row, of {one['max_failures']} that pause it"),
            ("next", _moment(one["next_at"])),
            ("paused", _moment(one["paused_at"])),
            ("because", one["pause_reason"] or ""),
        ):
            if value:
                table.add_row(label, Text(value))
        wide.print(table)


@app.command("create")
def create_schedule(
    name: Annotated[str | None, typer.Argument(help="Of your choice, unique.", metavar="NAME")] = None,
    cron: Annotated[
        str | None, typer.Argument(help='Five fields, such as "0 6 * * MON".', metavar="CRON")
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from",
            exists=True,
            dir_okay=False,
            metavar="FILE.json",
            help="The body of POST /v1/schedules; arguments and other options override its fields.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="A document to upload; runs are jobs."),
    ] = None,
    document: Annotated[str | None, typer.Option(help="Id of a document instead.")] = None,
    collection: Annotated[
        str | None, typer.Option(help="Id or name of a collection instead; runs are bulk jobs.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="A folder that the service reads instead, as a URL; runs are bulk jobs."),
    ] = None,
    glob: Annotated[str | None, typer.Option(help="Of paths below --source, such as '**/*.txt'.")] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="A question; may be given more than once, and beside --summarize."),
    ] = None,
    summarize: Annotated[bool, typer.Option("--summarize", help="Ask for a summary.")] = False,
    template: Annotated[str | None, typer.Option(help="name or name@version of a summary's prompt.")] = None,
    points: Annotated[int | None, typer.Option(help="Key points of a summary.")] = None,
    words: Annotated[int | None, typer.Option(help="Words of a summary.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What is to be done, in your words.")] = None,
    model: Annotated[str | None, typer.Option(help="A name from GET /v1/models.")] = None,
    policy: Annotated[str | None, typer.Option(help="How the memory is pruned.")] = None,
    scorer: Annotated[str | None, typer.Option(help="name or name@version.")] = None,
    cache_budget: CacheBudget = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="For each prompt.")] = None,
    priority: Annotated[int | None, typer.Option(help="-100 to 100; higher goes first.")] = None,
    deadline_seconds: Annotated[float | None, typer.Option(help="From the start of a run.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Of a bulk job: whole or map_reduce.")] = None,
    no_digest: Annotated[
        bool, typer.Option("--no-digest", help="Of a bulk job: no summary of summaries.")
    ] = False,
    only_changed: Annotated[
        bool, typer.Option("--only-changed", help="Of a bulk job: only new or changed documents.")
    ] = False,
    to: Annotated[str | None, typer.Option(help="Of a bulk job: URL of a folder for the results.")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA name; UTC if left out.")] = None,
    overlap: Annotated[
        str | None, typer.Option(help="While the run before runs: skip, queue or cancel_previous.")
    ] = None,
    catch_up_seconds: Annotated[int | None, typer.Option(help="How late a run may begin.")] = None,
    jitter_seconds: Annotated[int | None, typer.Option(help="Begin up to so much later.")] = None,
    max_failures: Annotated[int | None, typer.Option(help="So many in a row pause it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it, but make no schedule.")] = False,
    data: Data = None,
) -> None:
    """Make a schedule and print its id."""
    if prompt is not None and (ask or summarize):
        raise typer.BadParameter("give --prompt, or --ask, --summarize or both")
    if sum(one is not None for one in (file, document, collection, source)) > 1:
        raise typer.BadParameter("give one of --file, --document, --collection and --source")
    work: dict[str, Any] = {
        "task": "summarize" if summarize else "ask" if ask else "prompt" if prompt is not None else None,
        "questions": ask,
        "template": template,
        "points": points,
        "words": words,
        "prompt": prompt,
        "model": model,
        "policy": policy,
        "scorer": scorer,
        "cache_budget": cache_budget,
        "max_output_tokens": max_output_tokens,
        "priority": priority,
    }
    timing = {
        "name": name,
        "cron": cron,
        "timezone": timezone,
        "overlap": overlap,
        "catch_up_seconds": catch_up_seconds,
        "jitter_seconds": jitter_seconds,
        "max_failures": max_failures,
    }
    run = {
        "deadline_seconds": deadline_seconds,
        "strategy": strategy,
        "to": to,
        "digest": False if no_digest else None,
        "only_changed": only_changed or None,
    }
    # The upload waits until nothing else is missing.
    target = {"document_id": document or file, "collection": collection, "source": source, "glob": glob}
    with failing_clearly():
        body = override(
            {} if from_file is None else read_json_object(from_file),
            timing=drop_none(timing),
            target=drop_none(target),
            work=drop_none(work),
            run=drop_none(run),
        )
    with connected(data) as client:
        if file is not None:
            body["job"]["document_id"] = client.upload(file)["id"]
        made = client.create_schedule(dry_run=dry_run, **body)
        if dry_run:
            out.print(f"It would run next at {_moment(made['next_at'])}; no schedule was made.", markup=False)
        else:
            out.print(made["id"], markup=False)


@app.command("pause")
def pause_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Begin no run by itself until it is resumed."""
    with connected(data) as client:
        client.pause_schedule(schedule_id)
        out.print(f"{schedule_id} paused", markup=False)


@app.command("resume")
def resume_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Go on with the next time."""
    with connected(data) as client:
        one = client.resume_schedule(schedule_id)
        out.print(f"{schedule_id} runs next at {_moment(one['next_at'])}", markup=False)


@app.command("run")
def run_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Run it now and print the run's id; it begins within seconds."""
    with connected(data) as client:
        out.print(client.run_schedule(schedule_id)["id"], markup=False)


@app.command("preview")
def preview_schedule(
    schedule_id: ScheduleId, count: Limit = 10, as_json: AsJson = False, data: Data = None
) -> None:
    """Show its next times, by the clock of its zone and in UTC."""
    with connected(data) as client:
        found = client.schedule_preview(schedule_id, count)
        if as_json:
            return print_json(found)
        table = _table(found["timezone"], "offset", "UTC")
        for one in found["data"]:
            table.add_row(
                one["local"][:16].replace("T", " "), one["utc_offset"], one["utc"][:16].replace("T", " ")
            )
        wide.print(table)


@app.command("history")
def show_history(
    schedule_id: ScheduleId, limit: Limit = 20, as_json: AsJson = False, data: Data = None
) -> None:
    """Show its runs, the latest time first: how each ended, what it cost and why."""
    with connected(data) as client:
        found = client.schedule_runs(schedule_id, limit=limit)
        if as_json:
            return print_json(found)
        table = _table("time", "", "state", "job or bulk job", "cost", "reason")
        for run in found["data"]:
            table.add_row(
                _moment(run["scheduled_for"]),
                "by hand" if run["manual"] else "",
                run["state"],
                run["job_id"] or run["bulk_id"] or "",
                ", ".join(f"{Decimal(one['amount']).normalize():f} {one['currency']}" for one in run["cost"]),
                Text(f"{run['reason']['code']}: {run['reason']['message']}" if run["reason"] else ""),
            )
        wide.print(table)


@app.command("delete")
def delete_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Delete a schedule; runs that have begun go on."""
    with connected(data) as client:
        client.delete_schedule(schedule_id)
        out.print(f"{schedule_id} deleted", markup=False)
