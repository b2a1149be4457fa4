"""Every link in the documentation leads somewhere, and every command in it exists, with its options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from namm_runtime.cli import app as namm
from palimpsest.cli import app as palimpsest
from tests.support import REPOSITORY

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("README.md")),
]
PROGRAMS = {"palimpsest": typer.main.get_command(palimpsest), "namm": typer.main.get_command(namm)}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DECISIONS = REPOSITORY / "docs" / "decisions" / "README.md"
COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:docker compose exec \w+ )?(?:\.venv/bin/)?(?P<program>palimpsest|namm) (?P<rest>.+)"
)


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def without_code(text: str) -> str:
    """Brackets in code are not links."""
    return re.sub(r"`[^`\n]*`", "code", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    shown = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in shown}


def broken_links(page: Path, text: str) -> list[str]:
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"[a-z]+:", link):
            continue  # an address on the web
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of both programs, in code blocks and in code between words, split into words."""
    lines = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for language, block in FENCE.findall(text):
        if language in ("", "console"):
            lines += re.sub(r"\\\n\s*", " ", block).splitlines()
    for line in lines:
        found = COMMAND.match(re.sub(r"\s#.*$", "", line.removeprefix("$ ")))
        if found:
            words = shlex.split(found["rest"].replace("…", ""))
            yield [found["program"], *words]


def unknown_word(words: list[str]) -> str | None:
    """What of a command line its program does not have, a command or a long option; None if it has all."""
    command: Any = PROGRAMS[words[0]]
    rest = words[1:]
    while (below := getattr(command, "commands", None)) and rest and not rest[0].startswith("-"):
        if rest[0] in below:
            command, rest = below[rest[0]], rest[1:]
        elif type(command).__name__ == "DefaultCommandGroup":
            command = below["run"]
        else:
            return rest[0]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    return next((word for word in rest if word.startswith("--") and word.split("=")[0] not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    wrong = {" ".join(words): unknown_word(words) for words in commands(page.read_text())}
    assert {line: word for line, word in wrong.items() if word is not None} == {}


def test_what_is_wrong_is_found() -> None:
    page = REPOSITORY / "docs" / "README.md"
    text = (
        "[a](tutorial/first-job.md) [b](gone.md) [c](#tutorial) [d](#gone) `[e](f)` [g](https://example.com)"
    )
    assert broken_links(page, text) == ["gone.md", "#gone"]
    lines = ("$ A=1 palimpsest up --prot 0", "$ namm read \\", "    x --ask y   # --gone", "$ namm raed x")
    block = "```console\n{}\n```\n".format("\n".join(lines))
    assert [unknown_word(words) for words in commands(f"`palimpsest sumbit`\n{block}")] == [
        "sumbit",
        "--prot",
        None,
        "raed",
    ]


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\(([^)#\s]+)\)", (REPOSITORY / "docs" / "README.md").read_text()))
    listed |= {f"decisions/{link}" for link in re.findall(r"\]\((\d{3}-[^)]+)\)", DECISIONS.read_text())}
    pages = {page.relative_to(REPOSITORY / "docs").as_posix() for page in (REPOSITORY / "docs").rglob("*.md")}
    assert pages - listed == {"README.md"}
