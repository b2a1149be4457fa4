"""README.md is short, and its Python runs as it stands."""

import re

from tests.support import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_its_python_runs(capsys) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    read, answer = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d,]+ tokens read, \d+ bytes kept", read)
    assert "9310" in answer
