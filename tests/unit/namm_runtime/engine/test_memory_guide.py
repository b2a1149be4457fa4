"""The code of docs/how-to/use-a-memory.md runs as it stands."""

import re

import namm_runtime
from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "use-a-memory.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    printed = capsys.readouterr().out
    assert "{'read': 'all of it'}" in printed
    assert "snapshot_mismatch" in printed


def test_every_public_name_is_there():
    assert all(getattr(namm_runtime, name) for name in namm_runtime.__all__)
