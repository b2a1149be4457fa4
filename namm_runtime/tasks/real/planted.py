"""Facts to plant in a document, and the questions about them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from namm_runtime.tasks.item import Forced, Item
from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.real.values import Values
from namm_runtime.tasks.real.wordings import Attribute, Hard, Wordings

HARD = ("two_places", "order", "count", "latest")
"""Kinds of questions that need more than one place of the document."""


@dataclass(frozen=True)
class Planted:
    """Sentences to plant in this order, and the question that needs all of them.

    Attributes:
        item: without its context.
    """

    sentences: tuple[str, ...]
    item: Item


def plant(
    rng: random.Random, words: Wordings, facts: int, hard: tuple[str, ...], absent: int
) -> list[Planted]:
    """Facts for one document.

    Args:
        facts: number of questions that one sentence answers. Each is about another property as long as there
            are enough of them.
        hard: kinds of harder questions, from `HARD`, one each.
        absent: number of questions that the document does not answer; each asks for a property that the
            document states of another thing.
    """
    values = Values(rng, words.split, words.vocabulary)
    known = words.attributes
    chosen = rng.sample(known, min(facts, len(known)))
    chosen += rng.choices(known, k=facts - len(chosen))
    found = [_fact(attribute, values, words.metric) for attribute in chosen]
    found += [_HARD[kind](words.hard[kind], values, words.metric) for kind in hard]
    asked = [attribute for attribute in chosen if attribute.value not in _untold(words.language)] or chosen
    found += [_absent(attribute, values) for attribute in rng.choices(asked, k=absent)]
    return [replace(fact, item=replace(fact.item, input=words.ask(fact.item.input))) for fact in found]


def _untold(language: str) -> tuple[str, ...]:
    """Kinds of values of which an invented one cannot be told from other words; see evaluate/replies.py."""
    # Only some scripts write names with a capital letter.
    return ("material",) if language == "en" else ("material", "name", "person", "company")


def forced(pattern: str, value: str) -> Forced:
    """Force `value` in the place of {value} in a pattern; what follows it is not needed."""
    before = pattern.partition("{value}")[0]
    lead = before.rstrip()
    return Forced(lead, before[len(lead) :] + value)


def _fact(attribute: Attribute, values: Values, metric: str) -> Planted:
    name, value = values.name(), values.draw(attribute.value)
    statement = values.rng.choice(attribute.statements).replace("{name}", name)
    question = attribute.question.replace("{name}", name)
    item = Item("fact", "", question, (value,), metric, forced(statement, value))
    return Planted((statement.replace("{value}", value),), item)


def _absent(attribute: Attribute, values: Values) -> Planted:
    question = attribute.question.replace("{name}", values.name())
    return Planted((), Item("absent", "", question, (), "not_found"))


def _two_places(words: Hard, values: Values, metric: str) -> Planted:
    name, person, value = values.name(), values.person(), values.draw("small")
    sentences = [text.format(name=name, person=person, value=value) for text in words.sentences]
    values.rng.shuffle(sentences)
    pattern = words.lead.replace("{name}", name)
    question = words.question.format(name=name)
    item = Item("two_places", "", question, (value,), metric, forced(pattern, value))
    return Planted(tuple(sentences), item)


def _order(words: Hard, values: Values, metric: str) -> Planted:
    years = sorted(values.rng.sample(range(1950, 2020), 3))
    names = [values.name() for _ in years]
    (sentence,) = words.sentences
    sentences = [sentence.format(name=name, year=year) for name, year in zip(names, years, strict=True)]
    values.rng.shuffle(sentences)
    first = names[0]
    a, b, c = values.rng.sample(names, 3)
    question = words.question.format(a=a, b=b, c=c)
    forcing = forced(words.lead, first)
    item = Question("order", "", question, (first,), "classification", forcing, classes=tuple(names))
    return Planted(tuple(sentences), item)


def _count(words: Hard, values: Values, metric: str) -> Planted:
    name, times = values.name(), values.rng.randint(2, 5)
    (sentence,) = words.sentences
    sentences = tuple(sentence.format(name=name, day=values.draw("day")) for _ in range(times))
    pattern = words.lead.replace("{name}", name)
    question = words.question.format(name=name)
    item = Item("count", "", question, (str(times),), "first_number", forced(pattern, str(times)))
    return Planted(sentences, item)


def _latest(words: Hard, values: Values, metric: str) -> Planted:
    name = values.name()
    wordings = words.sentences[: values.rng.randint(2, 3)]
    limits = [values.draw("small") for _ in wordings]
    sentences = tuple(
        text.format(name=name, value=limit) for text, limit in zip(wordings, limits, strict=True)
    )
    pattern = words.lead.replace("{name}", name)
    question = words.question.format(name=name)
    item = Item("latest", "", question, (limits[-1],), metric, forced(pattern, limits[-1]))
    return Planted(sentences, item)


_HARD: dict[str, Callable[[Hard, Values, str], Planted]] = {
    "two_places": _two_places,
    "order": _order,
    "count": _count,
    "latest": _latest,
}
