"""`palimpsest scorer`: versions of scorers and their rollout, over REST."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.commands import scorer_views
from palimpsest.commands.common import (
    POLL_SECONDS,
    AsJson,
    Data,
    connected,
    console,
    out,
    print_json,
    read_json,
)
from palimpsest.commands.scorer_upload import contents
from palimpsest.machine.data_directory import LocalError
from palimpsest.report.figures import start_of
from palimpsest_client import Client, drop_none

app = typer.Typer(help="Upload, activate, roll back and compare versions of scorers.", no_args_is_help=True)

Label = Annotated[
    str, typer.Argument(help="Version of a scorer, for example namm@3.", metavar="NAME@VERSION")
]
Name = Annotated[str, typer.Argument(help="Name of a scorer, for example namm.", metavar="NAME")]
Scope = Annotated[str, typer.Option(help="Which jobs: global, model:NAME, tenant:ID or schedule:ID.")]


@app.command("list")
def list_scorers(as_json: AsJson = False, data: Data = None) -> None:
    """List the scorers in the registry, newest version first."""
    with connected(data) as client:
        found = client.scorers()
        if as_json:
            return print_json(found)
        if not found.get("data"):
            return out.print("The registry is empty; jobs run with the bundled scorers.")
        out.print(scorer_views.versions(found["data"]))


@app.command()
def show(scorer: Label, as_json: AsJson = False, data: Data = None) -> None:
    """Show a version: its state, its activations, how it was evolved and evaluated."""
    with connected(data) as client:
        found = client.scorer(*_split(scorer))
        print_json(found) if as_json else out.print(scorer_views.version(scorer, found))


@app.command()
def push(
    path: Annotated[
        Path,
        typer.Argument(help="A folder written by `namm evolve`, or a .pt file.", metavar="FILE_OR_FOLDER"),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the scorer; required for a .pt file. Default: the manifest's.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version; required for a .pt file. Default: the manifest's.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is verified or rejected.")] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Upload a version; a worker verifies it before it can be activated."""
    with connected(data) as client:
        files, named, numbered = contents(path, name, version)
        try:
            found = client.push_scorer(named, files, version)
        except OSError as error:
            raise LocalError(f"{error.filename or path} cannot be read: {error.strerror}.") from None
        numbered = str(found.get("version") or numbered)
        if wait:
            found = _verdict(client, named, numbered, found)
        if as_json:
            print_json(found)
        state = found.get("state", "uploaded")
        if state == "rejected":
            raise LocalError(
                f"{named}@{numbered} was rejected: {found.get('reason') or 'no reason was given'}"
            )
        if not as_json:
            out.print(f"{named}@{numbered} {state}", markup=False)


def _verdict(client: Client, name: str, version: str, found: dict[str, Any]) -> dict[str, Any]:
    with console.status(f"Waiting for a worker to verify {name}@{version}"):
        while found.get("state", "uploaded") == "uploaded":
            time.sleep(POLL_SECONDS)
            found = client.scorer(name, version)
    return found


@app.command()
def evaluate(
    scorer: Label,
    file: Annotated[Path, typer.Argument(help="The output of `namm evaluate --json`.", metavar="FILE.json")],
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Attach an evaluation to a version, replacing any previous one."""
    with connected(data) as client:
        name, version = _split(scorer)
        found = client.attach_evaluation(name, version, read_json(file))
        print_json(found) if as_json else out.print(f"{file.name} attached to {scorer}", markup=False)


@app.command()
def activate(
    scorer: Label,
    scope: Scope = "global",
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Activate a version for a scope. Jobs that started with another version keep it."""
    with connected(data) as client:
        name, version = _split(scorer)
        found = client.activate_scorer(name, version=version, scope=scope, alias="stable", reason=reason)
        print_json(found) if as_json else out.print(f"{scorer} serves {scope}", markup=False)


@app.command()
def canary(
    scorer: Label,
    percent: Annotated[int, typer.Option(min=0, max=100, help="Percentage of jobs that run with it.")],
    shadow: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Percentage of the other jobs that it repeats as shadow runs, to compare answers.",
        ),
    ] = 0,
    scope: Scope = "global",
    max_failure_rate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="End the canary if more of its jobs fail, for example 0.05."),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="End the canary if fewer answers of shadow runs agree, for example 0.9."
        ),
    ] = None,
    min_jobs: Annotated[
        int | None, typer.Option(min=1, help="Jobs or shadow runs before these limits apply; default: 20.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Run a share of a scope's jobs with a version; the stable version serves the others."""
    bounds = {"max_failure_rate": max_failure_rate, "min_agreement": min_agreement, "min_jobs": min_jobs}
    with connected(data) as client:
        name, version = _split(scorer)
        found = client.activate_scorer(
            name,
            version=version,
            scope=scope,
            alias="canary",
            percent=percent,
            shadow_percent=shadow,
            bounds=drop_none(bounds) or None,
            reason=reason,
        )
        if as_json:
            return print_json(found)
        shadowed = f" and repeats {shadow} % of the others as shadow runs" if shadow else ""
        out.print(f"{scorer} serves {percent} % of {scope}{shadowed}", markup=False)


@app.command("end-canary")
def end_canary(
    name: Name,
    scope: Scope = "global",
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """End a scope's canary; new jobs run with the stable version."""
    _end(name, scope, "canary", reason, as_json, data, f"The canary of {name} in {scope} has ended")


@app.command()
def deactivate(
    name: Name,
    scope: Scope = "global",
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Deactivate a scope's version; new jobs use that of a wider scope, or the bundled scorer."""
    said = f"{scope} no longer has a version of {name} of its own"
    _end(name, scope, "stable", reason, as_json, data, said)


def _end(
    name: str, scope: str, alias: str, reason: str | None, as_json: bool, data: Path | None, said: str
) -> None:
    with connected(data) as client:
        found = client.end_activation(name, scope, alias, reason)
        print_json(found) if as_json else out.print(said, markup=False)


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="Reason, for the audit log.")],
    scope: Scope = "global",
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Return to the version that served a scope before; ends a canary."""
    with connected(data) as client:
        found = client.rollback_scorer(name, scope, reason)
        back_to = found.get("scorer") or f"The previous version of {name}"
        print_json(found) if as_json else out.print(f"{back_to} serves {scope} again", markup=False)


@app.command()
def compare(
    name: Name,
    versions: Annotated[
        list[str] | None,
        typer.Argument(help="Versions to compare; default: all that had jobs.", metavar="[VERSION]..."),
    ] = None,
    last: Annotated[str, typer.Option(help="Period, for example 24h, 7d, 12w or 6mo.")] = "7d",
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Compare versions: failures, tokens kept, cost, savings, and agreement of shadow runs."""
    with connected(data) as client:
        since = start_of(last, datetime.now(UTC), UTC)
        # namm@3 is accepted for 3.
        asked = [one.removeprefix(f"{name}@") for one in versions or ()]
        found = client.scorer_outcomes(name, since.isoformat(), asked)
        if as_json:
            return print_json(found)
        shown = [one for one in found.get("data", []) if asked or scorer_views.has_figures(one)]
        if not shown:
            return out.print(f"None of your jobs ran with {name} in the last {last}.", markup=False)
        out.print(scorer_views.outcomes(shown))
        out.print("In brackets: 95 % Wilson intervals, assuming independent jobs and answers.")


@app.command()
def rollout(as_json: AsJson = False, data: Data = None) -> None:
    """Show the active versions and which workers have loaded them."""
    with connected(data) as client:
        found = client.rollout()
        if as_json:
            return print_json(found)
        if not found.get("data"):
            return out.print("No version is active; jobs run with the bundled scorers.")
        out.print(scorer_views.rollout(found["data"]))


@app.command()
def audit(
    subject: Annotated[
        str | None, typer.Option(help="Only changes of this subject, for example namm@3.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=100)] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Show the audit log, newest entry first."""
    with connected(data) as client:
        found = client.audit(subject=subject, limit=limit)
        print_json(found) if as_json else out.print(scorer_views.audit(found.get("data", [])))


def _split(scorer: str) -> tuple[str, str]:
    """Raises LocalError."""
    name, _, version = scorer.partition("@")
    if not name or not version:
        raise LocalError(f"Expected NAME@VERSION, for example namm@3; got '{scorer}'.")
    return name, version
