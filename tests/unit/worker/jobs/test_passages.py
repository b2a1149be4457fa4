"""Where quotations are found in a document, word for word or nearly so."""

import pytest

from worker.jobs.passages import DocumentText

TEXT = "Dear reader,\nthe penalty is 4 %.\n\fThe term ends in May. The term ends in May.\n"
CONTRACT = (
    "# Terms\r\n\r\nThe Association pays a yearly fee of EUR 48,600, in twelve equal\r\ninstalments. "
    "Spare parts of the *Terne* are charged at cost plus 6 percent.\r\n"
)
NOWHERE = {
    "located": False,
    "start": None,
    "end": None,
    "line": None,
    "page": None,
    "match": None,
    "similarity": None,
    "occurrences": 0,
}


def test_a_passage_is_placed_by_character_line_and_page() -> None:
    text = DocumentText(TEXT)
    assert text.place("the penalty is") == {
        "located": True,
        "start": 13,
        "end": 27,
        "line": 2,
        "page": 1,
        "match": "exact",
        "similarity": 1.0,
        "occurrences": 1,
    }
    second = text.place("The term ends in May.")
    assert (second["line"], second["page"], second["occurrences"]) == (3, 2, 2)
    assert TEXT[second["start"] : second["end"]] == "The term ends in May."
    assert text.place("Dear")["line"] == 1


def test_a_document_without_form_feeds_has_no_pages() -> None:
    assert DocumentText("one\ntwo").place("two")["page"] is None


def test_line_breaks_and_spaces_between_words_do_not_count() -> None:
    text = DocumentText(CONTRACT)
    place = text.place("a yearly  fee of EUR 48,600, in twelve equal instalments")
    assert (place["located"], place["match"], place["line"]) == (True, "exact", 3)
    assert CONTRACT[place["start"] : place["end"]].endswith("equal\r\ninstalments")


@pytest.mark.parametrize(
    ("quote", "passage"),
    [
        (
            "The Association pays an annual fee of EUR 48,600, in twelve equal instalments.",
            "The Association pays a yearly fee of EUR 48,600, in twelve equal\r\ninstalments.",
        ),
        (
            "spare parts of the Terne are charged at cost plus 6 percent",
            "Spare parts of the *Terne* are charged at cost plus 6 percent",
        ),
    ],
)
def test_a_near_quotation_is_placed_at_the_nearest_passage(quote: str, passage: str) -> None:
    place = DocumentText(CONTRACT).place(quote)
    assert (place["located"], place["match"], place["occurrences"]) == (False, "near", 0)
    assert CONTRACT[place["start"] : place["end"]] == passage
    assert 0.85 <= place["similarity"] < 1


@pytest.mark.parametrize(
    "quote",
    [
        "",
        "The Penalty is",  # too short for a near one
        "The Association pays a yearly fee of EUR 46,800, in twelve equal instalments.",  # another number
        "Travel costs are paid by the Contractor alone.",
        "The Association pays a yearly fee. " * 40,  # longer than the document
    ],
)
def test_what_is_not_there_has_no_place(quote: str) -> None:
    assert DocumentText(CONTRACT).place(quote) == NOWHERE


def test_characters_whose_lower_case_is_longer_keep_the_offsets() -> None:
    text = "İİİİ say: the harbour is closed to ships of seven metres."
    place = DocumentText(text).place("the harbor is closed to ships of seven metres")
    assert text[place["start"] : place["end"]] == "the harbour is closed to ships of seven metres"
