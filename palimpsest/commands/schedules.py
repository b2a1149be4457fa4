"""`palimpsest schedule`: jobs and bulk jobs on a cron schedule, over REST."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands import schedule_views
from palimpsest.commands.common import (
    AsJson,
    CacheBudget,
    Data,
    OnRisk,
    Reading,
    connected,
    out,
    print_json,
    read_json_object,
    reporting_errors,
    wide,
)
from palimpsest.commands.schedule_body import override
from palimpsest_client import drop_none

app = typer.Typer(help="Run jobs or bulk jobs on a cron schedule, in any time zone.", no_args_is_help=True)

ScheduleId = Annotated[
    str, typer.Argument(help="Id or name, as shown by `palimpsest schedule list`.", metavar="ID")
]
Limit = Annotated[int, typer.Option(min=1, max=100)]


@app.command("list")
def list_schedules(limit: Limit = 100, as_json: AsJson = False, data: Data = None) -> None:
    """List schedules, newest first, with their next run."""
    with connected(data) as client:
        found = client.schedules(limit=limit)
        if as_json:
            return print_json(found)
        table = schedule_views.table("id", "name", "cron", "zone", "does", "next", "state")
        for one in found["data"]:
            table.add_row(
                one["id"],
                Text(one["name"]),
                Text(one["cron"]),
                one["timezone"],
                schedule_views.does(one),
                schedule_views.moment(one["next_at"]),
                "paused" if one["paused_at"] else "",
            )
        wide.print(table)


@app.command("show")
def show_schedule(schedule_id: ScheduleId, as_json: AsJson = False, data: Data = None) -> None:
    """Show a schedule, and the reason if it is paused."""
    with connected(data) as client:
        one = client.schedule(schedule_id)
        if as_json:
            return print_json(one)
        table = Table(box=None, pad_edge=False, show_header=False)
        for label, value in (
            ("name", one["name"]),
            ("cron", f"{one['cron']} ({one['timezone']})"),
            ("does", schedule_views.does(one)),
            ("overlap", one["overlap"]),
            ("catch up", f"{one['catch_up_seconds']} s"),
            ("jitter", f"{one['jitter_seconds']} s"),
            ("failures", f"{one['failures']} in a row; {one['max_failures']} pause the schedule"),
            ("next", schedule_views.moment(one["next_at"])),
            ("paused", schedule_views.moment(one["paused_at"])),
            ("because", one["pause_reason"] or ""),
        ):
            if value:
                table.add_row(label, Text(value))
        wide.print(table)


@app.command("create")
def create_schedule(
    name: Annotated[str | None, typer.Argument(help="A unique name.", metavar="NAME")] = None,
    cron: Annotated[
        str | None,
        typer.Argument(help='Cron expression of five fields, for example "0 6 * * MON".', metavar="CRON"),
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
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="Document to upload; each run is a job."
        ),
    ] = None,
    document: Annotated[str | None, typer.Option(help="Id of a document, instead of --file.")] = None,
    collection: Annotated[
        str | None, typer.Option(help="Id or name of a collection; each run is a bulk job.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="URL of a folder that the service reads; each run is a bulk job."),
    ] = None,
    glob: Annotated[
        str | None, typer.Option(help="Only paths below --source that match, for example '**/*.txt'.")
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="A question; repeatable, also together with --summarize."),
    ] = None,
    summarize: Annotated[bool, typer.Option("--summarize", help="Summarize each document.")] = False,
    template: Annotated[
        str | None, typer.Option(help="Prompt template of summaries: NAME or NAME@VERSION.")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Number of key points in a summary.")] = None,
    words: Annotated[int | None, typer.Option(help="Length of a summary in words.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt of your own.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, as listed by GET /v1/models.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy that prunes the KV cache.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Scorer: NAME or NAME@VERSION.")] = None,
    cache_budget: CacheBudget = None,
    reading: Reading = None,
    on_risk: OnRisk = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(help="Limit of output tokens for each prompt.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="-100 to 100; jobs of higher priority run first.")
    ] = None,
    deadline_seconds: Annotated[
        float | None, typer.Option(help="Deadline, in seconds from the start of a run.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="Bulk jobs: whole or map_reduce.")] = None,
    no_digest: Annotated[
        bool, typer.Option("--no-digest", help="Bulk jobs: do not summarize the summaries.")
    ] = False,
    only_changed: Annotated[
        bool, typer.Option("--only-changed", help="Bulk jobs: only new or changed documents.")
    ] = False,
    to: Annotated[str | None, typer.Option(help="Bulk jobs: URL of a folder for the bundle.")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA time zone; default: UTC.")] = None,
    overlap: Annotated[
        str | None, typer.Option(help="If the previous run has not ended: skip, queue or cancel_previous.")
    ] = None,
    catch_up_seconds: Annotated[
        int | None, typer.Option(help="How many seconds late a run may start.")
    ] = None,
    jitter_seconds: Annotated[
        int | None, typer.Option(help="Delay each start by a random number of seconds up to this.")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="Failed runs in a row that pause the schedule.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate the schedule without creating it.")
    ] = False,
    data: Data = None,
) -> None:
    """Create a schedule and print its id."""
    if prompt is not None and (ask or summarize):
        raise typer.BadParameter("give either --prompt, or --ask and/or --summarize")
    if sum(one is not None for one in (file, document, collection, source)) > 1:
        raise typer.BadParameter("give one of --file, --document, --collection and --source")
    of_bulk: dict[str, object] = {"--glob": glob, "--strategy": strategy, "--to": to}
    of_bulk |= {"--no-digest": no_digest or None, "--only-changed": only_changed or None}
    if (file or document) and (wrong := [option for option, value in of_bulk.items() if value is not None]):
        raise typer.BadParameter(f"{', '.join(wrong)}: only for bulk jobs, so not with --file or --document")
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
        "reading": reading,
        "on_risk": on_risk,
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
    with reporting_errors():
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
            out.print(
                f"It would run next at {schedule_views.moment(made['next_at'])}; no schedule was created.",
                markup=False,
            )
        else:
            out.print(made["id"], markup=False)


@app.command("pause")
def pause_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Pause a schedule: no run starts automatically until it is resumed."""
    with connected(data) as client:
        client.pause_schedule(schedule_id)
        out.print(f"{schedule_id} paused", markup=False)


@app.command("resume")
def resume_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Resume a paused schedule at its next time."""
    with connected(data) as client:
        one = client.resume_schedule(schedule_id)
        out.print(f"{schedule_id} runs next at {schedule_views.moment(one['next_at'])}", markup=False)


@app.command("run")
def run_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Start a run now and print its id; it begins within seconds."""
    with connected(data) as client:
        out.print(client.run_schedule(schedule_id)["id"], markup=False)


@app.command("preview")
def preview_schedule(
    schedule_id: ScheduleId, count: Limit = 10, as_json: AsJson = False, data: Data = None
) -> None:
    """Show the next times of a schedule, in its time zone and in UTC."""
    with connected(data) as client:
        found = client.schedule_preview(schedule_id, count)
        if as_json:
            return print_json(found)
        table = schedule_views.table(found["timezone"], "offset", "UTC")
        for one in found["data"]:
            table.add_row(
                one["local"][:16].replace("T", " "), one["utc_offset"], one["utc"][:16].replace("T", " ")
            )
        wide.print(table)


@app.command("history")
def show_history(
    schedule_id: ScheduleId, limit: Limit = 20, as_json: AsJson = False, data: Data = None
) -> None:
    """Show the runs of a schedule, latest first: how each ended, its cost and the reason."""
    with connected(data) as client:
        found = client.schedule_runs(schedule_id, limit=limit)
        if as_json:
            return print_json(found)
        table = schedule_views.table("time", "", "state", "job or bulk job", "cost", "reason")
        for run in found["data"]:
            table.add_row(
                schedule_views.moment(run["scheduled_for"]),
                "manual" if run["manual"] else "",
                run["state"],
                run["job_id"] or run["bulk_id"] or "",
                ", ".join(f"{Decimal(one['amount']).normalize():f} {one['currency']}" for one in run["cost"]),
                Text(f"{run['reason']['code']}: {run['reason']['message']}" if run["reason"] else ""),
            )
        wide.print(table)


@app.command("delete")
def delete_schedule(schedule_id: ScheduleId, data: Data = None) -> None:
    """Delete a schedule; runs that have started continue."""
    with connected(data) as client:
        client.delete_schedule(schedule_id)
        out.print(f"{schedule_id} deleted", markup=False)
