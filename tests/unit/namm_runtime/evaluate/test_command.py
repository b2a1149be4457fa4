"""`namm evaluate` writes a report, a table and a plot, and resumes after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.evaluate.markdown import markdown
from namm_runtime.evaluate.suite import SUITES

KILLED = """
import sys
from namm_runtime.cli import app
app(sys.argv[1:])
"""


def test_kill_9_and_run_again_goes_on(tiny_model, questions, tmp_path):
    tasks, out = questions(documents=40), tmp_path / "out" / "report.json"
    arguments = [
        "evaluate", "--json", str(out), "--tasks", str(tasks), "--model", str(tiny_model), "--policies",
        "full,window", "--budgets", "64", "--interval", "32", "--processes", "2", "--plot", "none",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stderr=subprocess.DEVNULL)
    journal = out.with_suffix(".jsonl")
    while process.poll() is None and (not journal.exists() or len(journal.read_bytes().splitlines()) < 5):
        time.sleep(0.005)
    assert process.poll() is None, "it was done before it could be killed"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    before = journal.read_bytes().splitlines()
    arguments[arguments.index("--processes") + 1] = "1"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    after = journal.read_bytes().splitlines()
    assert len(after) == 80
    assert after[: len(before) - 1] == before[:-1]
    report = json.loads(out.read_text())
    assert [row["policy"] for row in report["rows"]] == ["full", "streaming"]
    assert out.with_suffix(".md").read_text() == markdown(report)
    for child in children:  # they end with their parent, even one that had no time to say so
        assert _gone(int(child)), f"process {child} is left over"


def _gone(pid: int) -> bool:
    for _ in range(400):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.025)
    os.kill(pid, signal.SIGKILL)
    return False


def test_the_command_writes_report_table_and_plot(tiny_model, questions, tmp_path):
    out = tmp_path / "report.json"
    arguments = [
        "evaluate", "--json", str(out), "--tasks", str(questions(documents=6)), "--model", str(tiny_model),
        "--policies", "full,streaming,l2", "--budgets", "32,64", "--interval", "32",
        "--max-output-tokens", "2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["machine"]["torch"]
    assert report["settings"]["tasks"] == ["questions.jsonl"]
    picture = out.with_suffix(".svg").read_bytes()
    assert picture.startswith(b"<?xml")
    table = out.with_suffix(".md").read_text()
    for row in report["rows"]:
        assert f"| {row['policy']} | {row['budget'] or 'all'} | {row['score']:.1%}" in table
    assert CliRunner().invoke(app, [*arguments, "--plot", "png"]).exit_code == 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert out.with_suffix(".svg").read_bytes() == picture


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"--policies": "best"}, "unknown_policy"),
        ({"--policies": "mine=nowhere"}, "scorer_unreadable"),
        ({"--budgets": "lots"}, "bad_budget"),
        ({"--tasks": "nowhere.jsonl"}, "bad_tasks"),
        ({"--model": str(SUITES)}, "model_not_found"),
        ({"--plot": "gif"}, "bad_request"),
        ({"--policies": "l2,l2"}, "bad_request"),
    ],
)
def test_wrong_requests_are_refused(tiny_model, questions, tmp_path, changes, code):
    options = {"--json": str(tmp_path / "r.json"), "--tasks": str(questions()), "--model": str(tiny_model)}
    arguments = [part for option in (options | changes).items() for part in option]
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert f"{code}:" in result.output
