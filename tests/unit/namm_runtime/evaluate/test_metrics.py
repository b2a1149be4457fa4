"""Scores worked out by hand."""

import pytest

from namm_runtime.evaluate.metrics import METRICS, score_answer
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.public import question
from namm_runtime.tasks.public.question import Question


def item(metric: str, *answers: str, **more: object) -> Question:
    return Question("t", "c", "?", answers, metric, **more)  # type: ignore[arg-type]


def test_readers_know_the_metrics_there_are():
    assert set(question.METRICS) == METRICS.keys()


@pytest.mark.parametrize(
    ("metric", "answers", "answer", "expected"),
    [
        ("exact", ["9310"], " 9310.\n", 1),
        ("exact", ["Port  Vell"], "port vell", 1),
        ("exact", ["9310"], "It is 9310", 0),
        ("exact", ["one", "1"], "1", 1),
        ("recall", ["417", "93", "Ada Byron"], "417; ada\nbyron; 930", 2 / 3),
        ("recall", ["12"], "a12 123", 0),
        # 2 shared words of 2 (the article goes) and 3: 2·2 / (2 + 3)
        ("f1", ["red car"], "The big red car!", 4 / 5),
        ("f1", ["no", "red car"], "no", 1),
        ("f1", ["red"], "", 0),
        # longest common subsequence "the cat on the": P 4/5, R 4/6, F 8/11
        ("rouge_l", ["the cat sat on the mat"], "the cat on the rug", 8 / 11),
        # two lines: "b a" and "c d" against "a b" and "c d"; unions of subsequences: 1 + 2 of 4 words
        ("rouge_lsum", ["a b\nc d"], "b a\nc d", 3 / 4),
        ("rouge_l_characters", ["北京大学"], "北京学院", 3 / 4),
        ("f1_characters", ["北京"], "在北京。", 4 / 5),
        # "abcd" and "abxd": 3 of 4 letters in both, 2·3 / 8
        ("edit", ["abcd"], "\n# comment\nabxd\nabcd", 3 / 4),
        ("edit", ["abcd"], "```", 0),
        ("contains", ["no", "Port"], "sports", 1),
        ("contains_all", ["ab", "cd", "x"], "ABCD", 2 / 3),
        ("number", ["Paragraph 7"], "Paragraph 7 or 12", 1 / 2),
        ("number", ["7"], "none", 0),
        ("first_number", ["71432"], "The key is 71432. Not 5", 1),
        ("first_number", ["71432"], "5, then 71432", 0),
        ("first_number", ["0.5"], "0.50", 1),
        ("last_number", ["-3"], "so 4 gives -3.", 1),
        ("last_number", ["3"], "3 or 4", 0),
        ("leading_numbers", ["1", "5", "8", "9"], "[1, 5, 7, 9]", 2 / 4),
        ("word", ["1f-2a"], 'It is "1f-2a".', 1),
        ("word", ["ANN"], "Anna", 0),
        ("choice", ["the dog", "B"], "B. the dog", 1),
        ("choice", ["the dog", "B"], "I think the answer is C", 0),
        ("choice", ["the dog", "B"], "the answer is: B", 1),
        ("choice", ["the dog", "B"], "surely the dog", 1),
        ("choice", ["the dog", "B"], "", 0),
    ],
)
def test_marks(metric, answers, answer, expected):
    assert score_answer(answer, item(metric, *answers)) == pytest.approx(expected)


def test_classification_shares_the_mark_among_the_classes_named():
    classes = ("City", "City name", "Human")
    assert score_answer("City name", item("classification", "City name", classes=classes)) == 1
    assert score_answer("Human or City name", item("classification", "City name", classes=classes)) == 0.5
    assert score_answer("Other\nHuman", item("classification", "Human", classes=classes)) == 0
    assert score_answer("City", item("classification", "City name", classes=classes)) == 0


def test_only_the_first_line_counts_where_the_benchmark_says_so():
    assert score_answer("\nred\nPassage: more", item("f1", "red", first_line=True)) == 1
    assert score_answer("\nred\nPassage: more", item("f1", "red")) == 0.5


def test_plain_items_of_the_generators_are_marked_too():
    assert score_answer("9310.", Item("single", "c", "q", ("9310",))) == 1
