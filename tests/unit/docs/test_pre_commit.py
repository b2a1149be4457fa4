"""The pre-commit hooks are the checks of `make lint` and need only the environment of `make install`."""

import re

import yaml

from tests.support import REPOSITORY

REPOSITORIES = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
HOOKS = [hook for repository in REPOSITORIES for hook in repository["hooks"]]
LINT = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_hooks_fetch_nothing() -> None:
    assert {repository["repo"] for repository in REPOSITORIES} == {"local"}
    assert {hook["language"] for hook in HOOKS} == {"system"}


def test_hooks_run_what_make_lint_runs() -> None:
    assert LINT is not None
    linted = set(re.findall(r"\$\(BIN\)/([\w-]+(?: (?:format|check))?)", LINT[1]))
    hooked = {hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in HOOKS}
    assert hooked <= linted
    assert {"ruff format", "ruff check", "mypy", "lint-imports"} <= hooked
