"""Which steps `palimpsest demo` takes, and under which model."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.commands.demo import command
from palimpsest.machine.data_directory import LocalError
from tests.support.demo_service import DemoService


class Demo:
    """`palimpsest demo` with a made-up service and no download."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.fetched: list[tuple[str, Path]] = []
        self.served: list[str] = []
        self.service = DemoService()
        self.fetching_fails = False

    def __call__(self, *arguments: str, **environment: str) -> Result:
        given = {"PALIMPSEST_MODEL": "", "NAMM_MODELS": "", "COLUMNS": "200", **environment}
        return CliRunner().invoke(app, ["demo", "--data", str(self.data), *arguments], env=given)

    def fetch(self, name: str, models: Path) -> None:
        if self.fetching_fails:
            raise typer.Exit(2)
        self.fetched.append((name, models))

    @contextmanager
    def running(self, data: Path, *, say: Any, environment: dict[str, str]) -> Iterator[Any]:
        self.served.append(environment["PALIMPSEST_MODEL"])
        yield type("Service", (), {"base_url": "http://nowhere", "api_key": "key"})


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Demo:
    made = Demo(tmp_path / "data")
    monkeypatch.setattr(command.command, "add_model", made.fetch)
    monkeypatch.setattr(command, "running", made.running)
    monkeypatch.setattr(command, "Client", lambda url, key: made.service)
    return made


def test_the_contract_under_a_real_llama_then_the_million_tokens(demo: Demo) -> None:
    told = demo("--tokens", "6000")
    assert told.exit_code == 0, told.output
    assert demo.fetched == [("smollm2-135m", demo.data / "models")]
    assert demo.served == ["smollm2-135m", "bundled"]
    assert demo.service.uploaded == ["agreement.md", "a-million-tokens.txt"]
    assert [job["policy"] for job in demo.service.submitted] == ["full", "snapkv", "keydiff", "namm-key"]
    assert "0 of 30 facts found" in told.output
    assert re.search(r"measured; model \d+ s, contract \d+ s, 6,000 tokens \d+ s\)", told.output)


def test_a_model_that_summarizes_does(demo: Demo) -> None:
    assert demo("--model", "qwen2.5-coder-1.5b", "--tokens", "6000").exit_code == 0
    tasks = [job.get("task") for job in demo.service.submitted]
    assert tasks == [None, None, None, "summarize", "summarize", None]


def test_the_bundled_model_reads_the_million_tokens_only(demo: Demo) -> None:
    assert demo("--model", "bundled", "--tokens", "6000", "--policy", "keydiff").exit_code == 0
    assert (demo.fetched, demo.served) == ([], ["bundled"])
    assert [job["policy"] for job in demo.service.submitted] == ["keydiff"]


def test_a_directory_is_served_as_it_is(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert demo("--model", "mine", "--tokens", "6000").exit_code == 0
    assert (demo.fetched, demo.served) == ([], [str(tmp_path / "mine"), "bundled"])


def test_a_file_of_the_users_is_read_once(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("The door is [red].")
    demo.service.say = lambda job, question: "It is [red]."
    told = demo("--doc", str(tmp_path / "mine.txt"), "--ask", "Which colour?", PALIMPSEST_MODEL="some/llama")
    assert told.exit_code == 0, told.output
    assert (demo.fetched, demo.served) == ([], ["some/llama"])
    assert [job["questions"] for job in demo.service.submitted] == [["Which colour?"]]
    assert "Which colour? It is [red]." in told.output
    assert demo("--ask", "Which colour?").exit_code == 2


def test_a_model_that_cannot_be_fetched_ends_it(demo: Demo) -> None:
    demo.fetching_fails = True
    told = demo()
    assert told.exit_code == 2
    assert "make demo MODEL=bundled" in told.output
    assert demo.served == []


def test_a_service_that_does_not_start_is_told(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LocalError("The port is taken.")

    monkeypatch.setattr(command, "running", refuse)
    told = demo("--model", "bundled")
    assert told.exit_code == 1
    assert "The port is taken." in told.output
