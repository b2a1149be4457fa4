"""Key points: how they are told apart in an answer, and where their quotations are found."""

from pathlib import Path

import pytest

from worker.jobs.key_points import key_points_of, with_key_points

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


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ("Here are the two key points:\n\n1. First.\n2. Second.", ["First.", "Second."]),
        ("**1.** First.\n**Key point 2:** Second.\nSentence 3: Third.", ["First.", "Second.", "Third."]),
        ("- 1. First.\n---\n```\n• Second.", ["First.", "Second."]),
        ("First. Second costs 2.9 million. It has J. Aune's consent.", None),
        ("Only this:", ["Only this:"]),
        ("- -", []),
        ("", []),
    ],
)
def test_what_small_models_write_around_points_is_left_out(answer: str, points: list[str] | None) -> None:
    if points is None:  # prose: a point for each sentence, not for each full stop
        points = ["First.", "Second costs 2.9 million.", "It has J. Aune's consent."]
    assert [point for point, _ in key_points_of(answer)] == points


def test_a_quotation_on_the_next_line_belongs_to_its_point() -> None:
    answer = (
        '1. The penalty:\n   - "the penalty is 4 %"\n2. The end.\n"The term ends in May."\n3. "Dear reader"'
    )
    assert key_points_of(answer) == [
        ('The penalty: "the penalty is 4 %"', "the penalty is 4 %"),
        ('The end. "The term ends in May."', "The term ends in May."),
        ('"Dear reader"', "Dear reader"),
    ]


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


def test_repeated_points_are_left_out_also_across_prompts(tmp_path: Path) -> None:
    document = tmp_path / "document"
    document.write_text(TEXT)
    answers = [
        {"prompt": "Point 1:", "text": "- The penalty is 4 %.\n- the penalty is 4 %\n- The penalty is 5 %."},
        {"prompt": "Point 2:", "text": "The penalty is 4 %."},
    ]
    first, second = with_key_points(answers, 2, document)
    assert [point["text"] for point in first["points"]] == ["The penalty is 4 %.", "The penalty is 5 %."]
    assert (second["points"], second["text"]) == ([], "The penalty is 4 %.")


def test_a_label_before_a_copied_sentence_is_not_looked_for(tmp_path: Path) -> None:
    document = tmp_path / "document"
    document.write_text(TEXT)
    answer = {"prompt": "Summarize.", "text": "**End of the term**: The term ends in May."}
    [point] = with_key_points([answer], 1, document)[0]["points"]
    assert (point["quote"], point["match"]) == ("The term ends in May.", "exact")
    assert point["text"] == answer["text"]
