"""`palimpsest scorer`: versions of scorers, and which one serves whom, over REST."""

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
    read_json_object,
)
from palimpsest.machine.data_directory import LocalError
from palimpsest.report.figures import start_of
from palimpsest_client import Client, drop_none

SCORER, MANIFEST = "scorer.safetensors", "manifest.json"

app = typer.Typer(help="Versions of scorers, and which one serves whom.", no_args_is_help=True)

Label = Annotated[str, typer.Argument(help="Such as namm@3.", metavar="NAME@VERSION")]
Name = Annotated[str, typer.Argument(help="Of the scorer, such as namm.", metavar="NAME")]
Scope = Annotated[str, typer.Option(help="global, model:NAME, tenant:ID or schedule:ID.")]


@app.command("list")
def list_scorers(as_json: AsJson = False, data: Data = None) -> None:
    """List the scorers of the registry, the newest version first."""
    with connected(data) as client:
        found = client.scorers()
        if as_json:
            return print_json(found)
        if not found.get("data"):
            return out.print("The registry is empty: jobs run with the bundled scorers.")
        out.print(scorer_views.versions(found["data"]))


@app.command()
def show(scorer: Label, as_json: AsJson = False, data: Data = None) -> None:
    """Show a version: where it stands, what it serves, how it was evolved and evaluated."""
    with connected(data) as client:
        found = client.scorer(*_split(scorer))
        print_json(found) if as_json else out.print(scorer_views.version(scorer, found))


@app.command()
def push(
    path: Annotated[
        Path,
        typer.Argument(help="A folder that `namm evolve` wrote, or a .pt file.", metavar="FILE_OR_FOLDER"),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of a .pt file, or of a folder whose manifest has none.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="The manifest's if left out.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is verified or rejected.")] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Upload a version; a worker verifies it before it can serve."""
    with connected(data) as client:
        files, named, numbered = _contents(path, name, version)
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
            raise LocalError(f"{named}@{numbered} is rejected: {found.get('reason') or 'no reason is given'}")
        if not as_json:
            out.print(f"{named}@{numbered} {state}", markup=False)


def _contents(path: Path, name: str | None, version: str | None) -> tuple[dict[str, Path], str, str]:
    """Parts of the form, name and version. Raises LocalError."""
    if path.is_dir():
        files = {"scorer": path / SCORER, "manifest": path / MANIFEST}
        for file in files.values():
            if not file.is_file():
                raise LocalError(f"{path} is no scorer: it has no {file.name}.")
        manifest = read_json_object(files["manifest"])
        said = manifest.get("name")
        if name is not None and said is not None and name != said:
            raise LocalError(f"{files['manifest']} is of the scorer '{said}': only --version can be another.")
        named, numbered = name or said, version or manifest.get("version")
        if not named or not numbered:
            raise LocalError(f"{files['manifest']} has no name or version: give --name and --version.")
        return files, str(named), str(numbered)
    if not path.is_file():
        raise LocalError(f"There is no file or folder {path}.")
    if path.suffix != ".pt":
        raise LocalError(f"{path} is neither a folder of {SCORER} and {MANIFEST} nor a .pt file.")
    if name is None or version is None:
        raise LocalError("A .pt file says neither its name nor its version: give --name and --version.")
    return {"checkpoint": path}, name, version


def _verdict(client: Client, name: str, version: str, found: dict[str, Any]) -> dict[str, Any]:
    with console.status(f"A worker is to verify {name}@{version}"):
        while found.get("state", "uploaded") == "uploaded":
            time.sleep(POLL_SECONDS)
            found = client.scorer(name, version)
    return found


@app.command()
def evaluate(
    scorer: Label,
    file: Annotated[Path, typer.Argument(help="What `namm evaluate --json` wrote.", metavar="FILE.json")],
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Attach an evaluation to a version; a later one replaces it."""
    with connected(data) as client:
        name, version = _split(scorer)
        found = client.attach_evaluation(name, version, read_json(file))
        print_json(found) if as_json else out.print(f"{file.name} attached to {scorer}", markup=False)


@app.command()
def activate(
    scorer: Label,
    scope: Scope = "global",
    reason: Annotated[str | None, typer.Option(help="For the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Let a version serve a scope from now on; jobs that began with another one keep it."""
    with connected(data) as client:
        name, version = _split(scorer)
        found = client.activate_scorer(name, version=version, scope=scope, alias="stable", reason=reason)
        print_json(found) if as_json else out.print(f"{scorer} serves {scope}", markup=False)


@app.command()
def canary(
    scorer: Label,
    percent: Annotated[int, typer.Option(min=0, max=100, help="Jobs that run with it.")],
    shadow: Annotated[
        int, typer.Option(min=0, max=100, help="Per cent of the other jobs that it reads too, to compare.")
    ] = 0,
    scope: Scope = "global",
    max_failure_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="It is ended when more of its jobs fail, such as 0.05.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="… when fewer answers of shadow runs agree, such as 0.9."),
    ] = None,
    min_jobs: Annotated[
        int | None, typer.Option(min=1, help="Jobs, or shadow runs, before that; 20 if left out.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="For the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Let a version serve a share of a scope's jobs, beside the one that serves the others."""
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
        shadowed = f" and reads {shadow} % of the others in its shadow" if shadow else ""
        out.print(f"{scorer} serves {percent} % of {scope}{shadowed}", markup=False)


@app.command("end-canary")
def end_canary(
    name: Name,
    scope: Scope = "global",
    reason: Annotated[str | None, typer.Option(help="For the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """End a scope's canary: new jobs run with the stable version."""
    _end(name, scope, "canary", reason, as_json, data, f"The canary of {name} in {scope} is ended")


@app.command()
def deactivate(
    name: Name,
    scope: Scope = "global",
    reason: Annotated[str | None, typer.Option(help="For the audit log.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """End a scope's version: new jobs run with a wider scope's, or with the one bundled with the runtime."""
    said = f"No version of {name} of its own serves {scope} any more"
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
    reason: Annotated[str, typer.Option(help="For the audit log.")],
    scope: Scope = "global",
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Go back to the version that served a scope before; a canary is ended."""
    with connected(data) as client:
        found = client.rollback_scorer(name, scope, reason)
        back_to = found.get("scorer") or f"The version of {name} before"
        print_json(found) if as_json else out.print(f"{back_to} serves {scope} again", markup=False)


@app.command()
def compare(
    name: Name,
    versions: Annotated[
        list[str] | None, typer.Argument(help="All that had jobs if left out.", metavar="[VERSION]...")
    ] = None,
    last: Annotated[str, typer.Option(help="How far back: 24h, 7d, 12w, 6mo.")] = "7d",
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Put versions side by side: failures, what they kept, cost and saved, how their shadows agreed."""
    with connected(data) as client:
        since = start_of(last, datetime.now(UTC), UTC)
        # namm@3 is taken for 3.
        asked = [one.removeprefix(f"{name}@") for one in versions or ()]
        found = client.scorer_outcomes(name, since.isoformat(), asked)
        if as_json:
            return print_json(found)
        shown = [one for one in found.get("data", []) if asked or scorer_views.has_figures(one)]
        if not shown:
            return out.print(f"No job of yours ran with {name} in the last {last}.", markup=False)
        out.print(scorer_views.outcomes(shown))
        out.print("In brackets: 95 % intervals by Wilson, as if jobs and answers were independent.")


@app.command()
def rollout(as_json: AsJson = False, data: Data = None) -> None:
    """Show what is to serve and which workers have loaded it."""
    with connected(data) as client:
        found = client.rollout()
        if as_json:
            return print_json(found)
        if not found.get("data"):
            return out.print("Nothing is activated: jobs run with the bundled scorers.")
        out.print(scorer_views.rollout(found["data"]))


@app.command()
def audit(
    subject: Annotated[str | None, typer.Option(help="Only about this one, such as namm@3.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=100)] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Show what was changed, by whom and when, the newest first."""
    with connected(data) as client:
        found = client.audit(subject=subject, limit=limit)
        print_json(found) if as_json else out.print(scorer_views.audit(found.get("data", [])))


def _split(scorer: str) -> tuple[str, str]:
    """Raises LocalError."""
    name, _, version = scorer.partition("@")
    if not name or not version:
        raise LocalError(f"'{scorer}' is no NAME@VERSION, such as namm@3.")
    return name, version
