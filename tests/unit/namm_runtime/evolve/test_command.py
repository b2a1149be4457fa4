"""`namm evolve` resumes after a kill and explains refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import torch
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.scorer import checkpoint

TOML = """
name = "tiny"
version = "1"
budget = 64
interval = 128
tokens = 512
questions = 2
documents = 1
population = 4
validate_every = 2
validation_documents = 2
[[stages]]
families = ["kv"]
generations = 4
"""


def test_a_killed_command_goes_on_as_it_would_have(tmp_path):
    """SIGKILL after the first generation; the same command again ends where an unbroken one does."""
    config = tmp_path / "tiny.toml"
    config.write_text(TOML)

    def arguments(out: str) -> list[str]:
        return ["evolve", str(config), "--out", str(tmp_path / out)]

    command = [sys.executable, "-m", "namm_runtime.cli", *arguments("broken")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as here, see tests/conftest.py
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        log = tmp_path / "broken" / "run" / "log.jsonl"
        while process.poll() is None and (not log.exists() or not log.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was to be killed on its way"
    for out in ("broken", "whole"):
        result = CliRunner().invoke(app, arguments(out))
        assert result.exit_code == 0, result.output
    broken, whole = (checkpoint.load(tmp_path / out) for out in ("broken", "whole"))
    assert torch.equal(broken.parameters, whole.parameters)
    logs = [(tmp_path / out / "evolution.jsonl").read_text().splitlines() for out in ("broken", "whole")]
    best = [[json.loads(line)["best"] for line in lines] for lines in logs]
    assert len(best[0]) == 4
    assert best[0] == best[1]
    assert (tmp_path / "whole" / "evolution.svg").stat().st_size > 0


def test_documents_that_do_not_fit_are_refused_in_words(tmp_path):
    (tmp_path / "c.toml").write_text(f"relevant = 0.01\n{TOML}")
    result = CliRunner().invoke(app, ["evolve", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "larger budget" in result.output
