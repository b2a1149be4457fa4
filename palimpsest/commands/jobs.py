"""The commands about jobs, over REST."""

import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import (
    POLL_SECONDS,
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
from palimpsest.machine.data_directory import LocalError
from palimpsest_client import Client
from store.answers import risk_of

ENDED = ("succeeded", "failed", "expired", "cancelled")
MODELS_SECONDS = 5.0  # between checks why a job is still queued


JobId = Annotated[str, typer.Argument(help="Id, for example job_06f3k2v5r8c4x1m7d9a0b2e6g8.", metavar="ID")]

app = typer.Typer(
    help="The job commands as a group: job submit, job list, job watch, …", no_args_is_help=True
)


def submit(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE")],
    ask: Annotated[list[str] | None, typer.Option(help="A question about the document; repeatable.")] = None,
    summarize: Annotated[bool, typer.Option("--summarize", help="Summarize the document.")] = False,
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
    deadline: Annotated[str | None, typer.Option(help="RFC 3339 time, or seconds from now.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Requests with the same key create a single job.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, then the result.")] = False,
    data: Data = None,
) -> None:
    """Upload a document, submit a job for it and print the job's id."""
    if sum((bool(ask), summarize, prompt is not None)) != 1:
        raise typer.BadParameter("give one of --ask, --summarize and --prompt")
    with connected(data) as client:
        document = client.upload(file)
        job = client.submit(
            idempotency_key=idempotency_key,
            document_id=document["id"],
            task="ask" if ask else "summarize" if summarize else "prompt",
            questions=ask,
            prompt=prompt,
            model=model,
            policy=policy,
            scorer=scorer,
            cache_budget=cache_budget,
            reading=reading,
            on_risk=on_risk,
            max_output_tokens=max_output_tokens,
            priority=priority,
            deadline=_deadline(deadline),
        )
        out.print(job["id"], markup=False)
        if wait:
            follow(client, job["id"])
            show_result(client.result(job["id"]))


def _deadline(text: str | None) -> str | float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """List jobs, newest first."""
    with connected(data) as client:
        page = client.jobs(state=state, model=model, limit=limit)
        if as_json:
            return print_json(page)
        table = Table(box=None, pad_edge=False)
        for heading in ("job", "state", "model", "policy", "progress", "created"):
            table.add_column(heading)
        for job in page["data"]:
            table.add_row(
                job["id"],
                _standing(job),
                job["model"],
                job["policy"],
                _share(job),
                job["timestamps"]["created"][:19],
            )
        wide.print(table)


def watch(job_id: JobId, data: Data = None) -> None:
    """Show a job's progress until it ends; the exit code is 0 if it succeeded."""
    with connected(data) as client:
        job = follow(client, job_id)
        out.print(_ending(job), markup=False)
        if job["state"] != "succeeded":
            raise typer.Exit(1)


def result(job_id: JobId, as_json: AsJson = False, data: Data = None) -> None:
    """Print a job's answers."""
    with connected(data) as client:
        found = client.result(job_id)
        print_json(found) if as_json else show_result(found)


def cost(job_id: JobId, as_json: AsJson = False, data: Data = None) -> None:
    """Print a job's cost and savings, each figure with how it was determined."""
    with connected(data) as client:
        bill = client.cost(job_id)
        if as_json:
            return print_json(bill)
        table = Table("figure", "quantity", "unit", "", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for figure in bill["summary"]:
            quantity = f"{Decimal(figure['quantity']):,f}"
            table.add_row(figure["name"], quantity, figure["unit"], figure["measurement"])
        out.print(table)
        print_settings(bill["setting"])
        if bill.get("no_saving"):
            out.print(bill["no_saving"], markup=False)
        if not bill["final"]:
            out.print("The job has not ended, so the bill is not final.")


def cancel(job_id: JobId, data: Data = None) -> None:
    """Cancel a job; answers given so far are kept."""
    with connected(data) as client:
        out.print(_ending(client.cancel(job_id)), markup=False)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.fields.get("speed")
        return Text(f"{speed:,.0f} tokens/s" if speed else "")


def follow(client: Client, job_id: str) -> dict[str, Any]:
    """Show a progress bar until the job has ended; returns it as it is then."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.completed:>11,.0f} / {task.fields[whole]} tokens"),
        _Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("queued", total=None, whole="?", speed=None)
        looked_at = -MODELS_SECONDS
        while True:
            job = client.job(job_id)
            if job["state"] in ENDED:
                return job
            if job["state"] == "queued" and time.monotonic() - looked_at >= MODELS_SECONDS:
                looked_at = time.monotonic()
                _check_model(client, job)
            known = job["progress"] or {}
            total = known.get("tokens_total")
            progress.update(
                bar,
                description=known.get("phase") if job["state"] == "running" and known else _standing(job),
                completed=known.get("tokens_done", 0),
                total=total,
                whole=f"{total:,}" if total else "?",
                speed=known.get("tokens_per_second"),
            )
            time.sleep(POLL_SECONDS)


def _check_model(client: Client, job: dict[str, Any]) -> None:
    """Raises LocalError if no worker can load the job's model, in which case it would stay queued."""
    for model in client.models()["data"]:
        # With fewer errors than live workers, a worker may still be loading the model.
        broken = model["errors"] and not model["loaded"] and len(model["errors"]) >= model["workers_live"]
        if model["name"] == job["model"] and broken:
            raise LocalError(
                f"No worker can load the model '{job['model']}': {model['errors'][0]} "
                f"The job {job['id']} stays queued until a worker can."
            )


def _standing(job: dict[str, Any]) -> str:
    """The state, and the budget that holds the job in the queue, if any."""
    held_by = job.get("held_by")
    return f"{job['state']}, held by budget {held_by}" if held_by else str(job["state"])


def _share(job: dict[str, Any]) -> str:
    known = job["progress"]
    if not known or not known["tokens_total"]:
        return ""
    return f"{known['tokens_done'] / known['tokens_total']:.0%} {known['phase']}"


def _ending(job: dict[str, Any]) -> str:
    error = job["error"]
    return f"{job['id']} {job['state']}" + (f" ({error['code']}): {error['message']}" if error else "")


def show_result(found: dict[str, Any]) -> None:
    """Print the answers, how the document was read, and what to be wary of."""
    if not found["complete"]:
        out.print(f"Partial: the job is {found['state']}.", markup=False)
    for answer in found["answers"]:
        out.print(f"{answer['prompt']}\n  {answer['text'].strip()}", markup=False)
        if answer["finish_reason"] == "repetition":
            out.print("  (stopped: the answer repeated itself)")
        if risk := risk_of(answer):
            out.print(f"  {risk} {_advice(found)}", markup=False)
    print_settings(found["usage"])
    if found.get("policy_reason"):
        out.print(f"Policy {found['policy']}: {found['policy_reason']}", markup=False)
    if no_saving := (found["usage"] or {}).get("no_saving"):
        out.print(no_saving, markup=False)
    for warning in found.get("warnings", ()):
        out.print(f"Warning {warning['code']}: {warning['message']}", markup=False)


def _advice(found: dict[str, Any]) -> str:
    again = "" if found.get("rereads") else " or --on-risk reread"
    return f"Consider a larger --cache-budget{again}."


def print_settings(setting: dict[str, Any] | None) -> None:
    """Print how the document was read, and what of it differs from the settings the scorer was evolved in."""
    if not setting or setting.get("positions") is None:
        return
    # A result's usage has the library's name for it, a bill the service's.
    budget, interval = setting.get("cache_budget", setting.get("budget")), setting.get("interval")
    slots = "no slot limit" if budget is None else f"{budget:,} slots per head"
    evictions = "no evictions" if interval is None else f"an eviction every {interval:,} tokens"
    how = "guided by the prompts" if setting.get("reading") == "guided" else f"in {setting.get('mode')} mode"
    out.print(f"Read {how}: {slots}, {evictions}, {setting['positions']} positions.", markup=False)
    if rereads := setting.get("rereads"):
        times = "once" if rereads == 1 else f"{rereads} times"
        out.print(f"It was read again {times}, with a larger cache, as answers were at risk.", markup=False)
    if setting.get("regime"):
        out.print(setting["regime"], markup=False)


def add_commands(to: typer.Typer, *, rich_help_panel: str) -> None:
    """Add the commands of this module to the top level, each under its own name."""
    for command in (submit, jobs, watch, result, cost, cancel):
        to.command(rich_help_panel=rich_help_panel)(command)


app.command("list")(jobs)
for _command in (submit, watch, result, cost, cancel):
    app.command()(_command)
