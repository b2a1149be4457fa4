"""The names of the command line: groups in the singular, their former names, and a group with a default."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.main import get_command
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.commands.groups import PANELS

FORMER = {"keys": "key", "budgets": "budget", "bulks": "bulk", "prices": "price"}


def run(*arguments: str, data: Path) -> Result:
    env = {"PALIMPSEST_DATA_DIR": str(data), "COLUMNS": "200", "PALIMPSEST_URL": "", "DATABASE_URL": ""}
    return CliRunner().invoke(app, list(arguments), env=env)


def usage_and_help(result: Result) -> str:
    """What help says, but for how many blanks fill its lines."""
    assert result.exit_code == 0
    return " ".join(result.output.split())


def test_help_shows_every_command_once_under_a_panel(tmp_path: Path) -> None:
    shown = run("--help", data=tmp_path).output
    titles = [shown.index(f" {panel} ──") for panel in PANELS]
    assert titles == sorted(titles)
    assert " Commands ──" not in shown, "a command without a panel"
    lines = shown.splitlines()
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        named = [line for line in lines if line.startswith(f"│ {name} ")]
        assert len(named) == (0 if name in FORMER else 1), name


@pytest.mark.parametrize(("former", "name"), FORMER.items())
def test_former_names_of_groups_work_alike(former: str, name: str, tmp_path: Path) -> None:
    now, before = (usage_and_help(run(one, "--help", data=tmp_path)) for one in (name, former))
    assert before == now.replace(f"root {name} ", f"root {former} ")


def test_a_former_name_runs_the_command(tmp_path: Path) -> None:
    asked, before = run("bulk", "list", data=tmp_path), run("bulks", "list", data=tmp_path)
    assert (asked.exit_code, asked.output) == (before.exit_code, before.output)
    assert "No service is running on" in asked.output


@pytest.mark.parametrize("arguments", [["./list"], ["./list", "--points", "5"], ["--points", "5", "./list"]])
def test_bulk_runs_what_is_no_command(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str | None] = []
    monkeypatch.setattr("palimpsest.commands.bulk.connected", lambda data: made.append(data) or _Refusing())
    assert run("bulk", *arguments, data=tmp_path).exit_code == 1
    assert run("bulk", "run", *arguments, data=tmp_path).exit_code == 1
    assert made == [None, None]


class _Refusing:
    """Stands where `bulk run` would talk to a service about the folder `./list`."""

    def __enter__(self) -> None:
        raise SystemExit(1)

    def __exit__(self, *_: object) -> None: ...


def test_help_of_bulk_has_its_commands_and_the_options_of_a_run(tmp_path: Path) -> None:
    shown = run("bulk", "--help", data=tmp_path).output
    for word in (
        "│ run ",
        "│ list ",
        "│ cancel ",
        "--only-changed",
        "--points",
        "bulk [run] [OPTIONS] [SOURCE]",
    ):
        assert word in shown
    assert "--points" not in run("bulk", "list", "--help", data=tmp_path).output


def test_jobs_are_a_group_too(tmp_path: Path) -> None:
    assert run("job", "list", data=tmp_path).output == run("jobs", data=tmp_path).output
    for name in ("submit", "watch", "result", "cost", "cancel"):
        short = usage_and_help(run(name, "--help", data=tmp_path))
        long = usage_and_help(run("job", name, "--help", data=tmp_path))
        assert long == short.replace(f" {name} [", f" job {name} [", 1)
