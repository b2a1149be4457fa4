"""`palimpsest evolve` without what it needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY


@pytest.mark.parametrize(("redis", "said"), [("", "REDIS_URL"), ("unix:///nowhere", "no_such")])
def test_what_is_missing_is_said(tmp_path: Path, redis: str, said: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text('name = "x"\nversion = "1"\n[[stages]]\nfamilies = ["no_such"]\ngenerations = 1\n')
    run = subprocess.run(
        [sys.executable, "-m", "palimpsest.cli", "evolve", str(config), "--out", str(tmp_path / "o")],
        env={"PATH": "", "HOME": str(tmp_path), "PALIMPSEST_DATA_DIR": str(tmp_path)}
        | ({"REDIS_URL": redis} if redis else {}),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert said in run.stderr
