"""The demo's document: its length, its questions, and which answers count as right."""

import re
from pathlib import Path

import pytest

from palimpsest.commands.demo.questions import Question, load
from palimpsest.machine.data_directory import LocalError

EXAMPLE = load()
AGREEMENT = EXAMPLE.document.read_text()


def asked(words: str) -> Question:
    (found,) = (question for question in EXAMPLE.questions if words in question.ask)
    return found


def test_the_kinds_of_questions() -> None:
    about = [question.about for question in EXAMPLE.questions]
    assert 10 <= len(about) <= 12
    assert {"amended", "in two places", "not in the document"} <= set(about)
    assert len({question.ask for question in EXAMPLE.questions}) == len(about)


@pytest.mark.parametrize("question", EXAMPLE.questions, ids=lambda question: question.ask)
def test_truths_are_right_and_stand_in_the_document(question: Question) -> None:
    assert question.is_right(f"As far as I know: {question.accept[0]}.")
    assert not question.is_right("I do not know.")
    if question.about != "not in the document":
        assert any(accepted in AGREEMENT for accepted in question.accept)


def test_what_is_not_in_the_document_is_not() -> None:
    (question,) = (question for question in EXAMPLE.questions if question.about == "not in the document")
    assert "bank account" in question.ask
    assert "account number" not in AGREEMENT
    assert question.is_right("The document does not specify the account number.")
    assert not question.is_right("The Supplier's bank account number is 123456789.")


def test_what_the_amendment_replaced_is_wrong() -> None:
    payable = asked("invoices payable")
    assert payable.is_right("Invoices are payable within 30 days.")
    assert payable.is_right("within thirty\n(30) days")
    assert not payable.is_right("Within forty-five (45) days of receipt.")
    assert not payable.is_right("Within 30 or 45 days.")
    assert not payable.is_right("within 130 days")
    manager = asked("contract manager")
    assert manager.is_right("the contract manager is ingrid solberg.")
    assert not manager.is_right("Joost van Heemskerk, and now Ingrid Solberg")


def test_the_amendment_comes_after_what_it_replaces() -> None:
    before, _, amendment = AGREEMENT.partition("# Amendment No. 1")
    assert "payable within forty-five (45) days" in before
    assert "payable within thirty (30) days" in amendment
    assert "forty-five" not in amendment
    assert "Joost van Heemskerk, key account manager" in before


def test_no_clause_refers_to_one_that_does_not_exist() -> None:
    clauses = set(re.findall(r"^(\d+\.\d+) ", AGREEMENT, re.MULTILINE))
    sections = set(re.findall(r"^## (\d+)\. ", AGREEMENT, re.MULTILINE))
    schedules = set(re.findall(r"^## Schedule (\d+)", AGREEMENT, re.MULTILINE))
    named = set(re.findall(r"[Cc]lauses? (\d+(?:\.\d+)?)\b", AGREEMENT))
    assert named
    assert named <= clauses | sections
    assert set(re.findall(r"Schedule (\d+)", AGREEMENT)) == schedules


def test_a_missing_example_is_told(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="part of the repository"):
        load(tmp_path)
