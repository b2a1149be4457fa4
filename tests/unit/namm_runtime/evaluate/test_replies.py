"""Replies to questions that the document does not answer."""

import pytest

from namm_runtime.evaluate.metrics import score_answer
from namm_runtime.evaluate.replies import classify
from namm_runtime.tasks.item import Item

QUESTION = "Who is the head of the Potsdam laboratory in building 4?"


@pytest.mark.parametrize(
    "answer",
    ["Not found.", "The head of the Potsdam laboratory is not mentioned in the text.", "It doesn't say.",
     "The document does not specify who leads it.", "There is no information about the Potsdam laboratory.",
     "Unknown", "This cannot be determined from the document.", "not explicitly stated"],
)  # fmt: skip
def test_replies_of_not_found(answer):
    assert classify(answer, QUESTION) == "not_found"
    assert score_answer(answer, Item("absent", "", QUESTION, (), "not_found")) == 1


@pytest.mark.parametrize(
    "answer", ["The head is Maria Kent.", "It is led by Dover", "Room 17", "the code is 4821"]
)
def test_replies_that_state_a_value_are_inventions(answer):
    assert classify(answer, QUESTION) == "invented"
    assert score_answer(answer, Item("absent", "", QUESTION, (), "not_found")) == 0


@pytest.mark.parametrize(
    "answer", ["", "The head of the Potsdam laboratory is", "The code is correct.\n\nThe code", "4"]
)
def test_other_replies_state_nothing_new(answer):
    assert classify(answer, QUESTION) == "other"
