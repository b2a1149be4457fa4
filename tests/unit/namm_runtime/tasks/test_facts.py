"""Facts and the questions about them."""

import random

from namm_runtime.tasks import sample_facts


def test_questions_are_distinct_and_share_ids() -> None:
    facts = sample_facts(300, random.Random(1), "test")
    assert len({fact.question for fact in facts}) == 300
    assert len({fact.number for fact in facts}) < 200


def test_a_fact_spells_itself() -> None:
    fact = sample_facts(1, random.Random(1), "train")[0]
    assert fact.sentence == f"\n{fact.question} {fact.answer}."
    assert fact.prompt + fact.completion == fact.sentence
