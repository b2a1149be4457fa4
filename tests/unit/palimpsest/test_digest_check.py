"""`palimpsest bulk check`: facts, places, inventions and the bar."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest import digest_check
from palimpsest.cli import app
from palimpsest.machine.data_directory import LocalError
from tests.support import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "nightly-digest"
FACTS = """
folder = "documents"
[bar]
facts = 0.75
placed = 0.5
inventions = 0
loops = 0
[documents."a.txt"]
facts = [["EUR 48,600", "48 600 euros"], "six months’ notice"]
inventions = ["three months' notice", "EUR 46,000"]
[documents."b/c.txt"]
facts = ["15", "Aurelia"]
"""


def point(text: str, match: str | None = "exact") -> dict[str, Any]:
    return {"text": text, "located": match == "exact", "match": match}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with documents, their facts, and a bundle in which everything is well."""
    (tmp_path / "documents" / "b").mkdir(parents=True)
    (tmp_path / "documents" / "a.txt").write_text(
        "The fee is EUR 48,600.\nIt ends with six months' notice.\n"
    )
    (tmp_path / "documents" / "b" / "c.txt").write_text("The Aurelia comes on 15 May 2027.\n")
    (tmp_path / "facts.toml").write_text(FACTS)
    write(
        tmp_path,
        [point("The fee is *EUR 48,600*."), point("It ends with six\u00a0months' Notice.", "near")],
        [point("The Aurelia comes on 15 May."), point("She is a ship.", None)],
    )
    return tmp_path


def write(place: Path, *points: list[dict[str, Any]], **more: Any) -> None:
    lines = [
        {"path": path, "state": "succeeded", "points": own, "repeated": [], **more}
        for path, own in zip(("a.txt", "b/c.txt"), points, strict=True)
    ]
    (place / "bundle").mkdir(exist_ok=True)
    (place / "bundle" / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def checked(place: Path) -> digest_check.Check:
    return digest_check.check(place / "bundle", place / "facts.toml")


def test_what_a_digest_carries_is_counted(place: Path) -> None:
    found = checked(place)
    assert found.totals() == {
        "documents": 2,
        "failed": 0,
        "facts": 4,
        "carried": 4,
        "points": 4,
        "exact": 2,
        "near": 1,
        "unlocated": 1,
        "inventions": 0,
        "unknown_numbers": 0,
        "loops": 0,
    }
    assert found.shortfalls() == []


def test_spellings_are_whole_words_and_numbers(place: Path) -> None:
    write(
        place,
        [point("EUR 48,600.50 and sixsix months' notice")],
        [point("On 1,15 or 15,5 or 2015 came Aureliana.")],
    )
    first, second = checked(place).documents
    assert (first.carried, second.carried) == ([], [])
    assert second.missing == ["15", "Aurelia"]


def test_what_is_invented_is_told(place: Path) -> None:
    write(
        place,
        [point("Three months' notice; 48,600; 46,000")],
        [point("The Aurelia comes on 15 June 2028.")],
    )
    first, second = checked(place).documents
    assert (first.inventions, first.unknown_numbers) == (["three months' notice"], ["46,000"])
    assert (second.inventions, second.unknown_numbers) == ([], ["2028"])


def test_the_bar_says_what_falls_short(place: Path) -> None:
    write(place, [point("EUR 46,000", None)], [], repeated=["Summarize."], state="failed")
    assert checked(place).shortfalls() == [
        "2 documents were not done.",
        "0 of 4 facts are carried, not 75%.",
        "0 of 1 points have a place, not 50%.",
        "2 inventions, not 0 at most.",
        "2 answers were stopped in a loop, not 0 at most.",
    ]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ("= 3", "is not valid TOML"),
        ("[documents]", "documents"),
        ("[documents.x]\nfacts = []", "documents.x.facts"),
        ("[bar]\nfact = 1\n[documents.x]\nfacts = ['y']", "bar.fact"),
        ("[bar]\nfacts = 50\n[documents.x]\nfacts = ['y']", "bar.facts"),
        ("[documents.x]\nfacts = ['y']", "no document 'x'"),
        ("[documents.'a.txt']\nfacts = ['']", "documents.a.txt.facts.0"),
        ("folder = 'away'\n[documents.'a.txt']\nfacts = ['y']", "cannot be read"),
    ],
)
def test_a_facts_file_that_cannot_be_used_says_why(place: Path, facts: str, said: str) -> None:
    (place / "facts.toml").write_text(facts)
    with pytest.raises(LocalError, match=re.escape(said)):
        checked(place)


def test_another_file_is_no_bundle(place: Path) -> None:
    (place / "bundle" / "documents.jsonl").write_text("[1]\n")
    with pytest.raises(LocalError, match=r"not the documents\.jsonl of a bundle"):
        checked(place)


def test_the_command_ends_with_1_below_the_bar(place: Path) -> None:
    command = ["bulk", "check", str(place / "bundle"), "--facts", str(place / "facts.toml")]
    good = CliRunner().invoke(app, command)
    assert (good.exit_code, "4 of 4 facts" in good.output, "The bar is met." in good.output) == (
        0,
        True,
        True,
    )
    write(place, [point("The fee is EUR 48,600.")], [point("15 [May] 2028")])
    bad = CliRunner().invoke(app, command)
    assert bad.exit_code == 1
    assert "b/c.txt, missing: Aurelia" in bad.output
    assert "Below the bar: 2 of 4 facts are carried, not 75%." in bad.output
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert told["totals"]["unknown_numbers"] == 1
    assert [one["path"] for one in told["documents"]] == ["a.txt", "b/c.txt"]


def test_the_examples_facts_are_in_its_documents_and_its_inventions_are_not() -> None:
    facts = digest_check.read_facts(EXAMPLE / "facts.toml")
    assert sorted(facts.documents) == sorted(file.name for file in (EXAMPLE / "documents").iterdir())
    for path, expected in facts.documents.items():
        text = (EXAMPLE / "documents" / path).read_text()
        found = digest_check.occurring(expected.facts, text)
        assert found == [True] * len(expected.facts), path
        assert digest_check.occurring(expected.inventions, text) == [False] * len(expected.inventions), path
