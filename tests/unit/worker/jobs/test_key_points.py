"""Key points: how they are told apart in an answer, and where their quotations are found."""

from pathlib import Path

import pytest

from worker.jobs.key_points import DocumentText, key_points_of, with_key_points

TEXT = "Dear reader,\nthe penalty is 4 %.\n\fThe term ends in May. The term ends in May.\n"


@pytest.mark.parametrize(
    ("line", "point"),
    [
        ("- The penalty.", "The penalty."),
        ("  * The penalty.", "The penalty."),
        ("3. The penalty.", "The penalty."),
        ("(12) The penalty.", "The penalty."),
        ("2) The penalty.", "The penalty."),
        ("The penalty - 4 %.", "The penalty - 4 %."),
        ("2027 was dry.", "2027 was dry."),
    ],
)
def test_a_line_is_a_point_without_its_bullet(line: str, point: str) -> None:
    assert key_points_of(f"\n{line}\n\n") == [(point, point)]


@pytest.mark.parametrize("marks", ["“{}”", '"{}"', "«{}»", "„{}“"])
def test_the_longest_quotation_is_looked_for(marks: str) -> None:
    line = f"- Late delivery costs {marks.format('4 %')}: {marks.format('the penalty is 4 %')}."
    assert key_points_of(line)[0][1] == "the penalty is 4 %"


def test_a_passage_is_placed_by_character_line_and_page() -> None:
    text = DocumentText(TEXT)
    assert text.place("the penalty is") == {
        "located": True,
        "start": 13,
        "end": 27,
        "line": 2,
        "page": 1,
        "occurrences": 1,
    }
    second = text.place("The term ends in May.")
    assert (second["line"], second["page"], second["occurrences"]) == (3, 2, 2)
    assert TEXT[second["start"] : second["end"]] == "The term ends in May."
    assert text.place("Dear")["line"] == 1


def test_a_document_without_form_feeds_has_no_pages() -> None:
    assert DocumentText("one\ntwo").place("two")["page"] is None


@pytest.mark.parametrize("quote", ["", "The Penalty is", "the penalty  is", "the penalty is 4 %.\nThe term"])
def test_what_is_not_there_word_for_word_is_not_located(quote: str) -> None:
    assert DocumentText(TEXT).place(quote) == {
        "located": False,
        "start": None,
        "end": None,
        "line": None,
        "page": None,
        "occurrences": 0,
    }


def test_only_the_summarys_answers_get_points(tmp_path: Path) -> None:
    document = tmp_path / "document"
    document.write_text(TEXT.replace("\n", "\r\n"), newline="")
    answers = [
        {"prompt": "Summarize.", "text": '- Dear: "the penalty is 4 %."\n- The sky is blue.'},
        {"prompt": "When?", "text": "In May."},
    ]
    first, second = with_key_points(answers, 1, document)
    assert [point["located"] for point in first["points"]] == [True, False]
    assert first["points"][0]["start"] == 14  # line ends count as they are written
    assert second == answers[1]
