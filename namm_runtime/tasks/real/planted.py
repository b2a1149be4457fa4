"""Facts to plant in a document, and the questions about them."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from namm_runtime.tasks.item import Forced, Item
from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.real.values import Values
from namm_runtime.tasks.real.wordings import NOUNS, Attribute, attributes
from namm_runtime.tasks.words import Split

HARD = ("two_places", "order", "count", "latest")
"""Kinds of questions that need more than one place of the document."""


@dataclass(frozen=True)
class Planted:
    """Sentences to plant in this order, and the question that needs all of them, if any.

    Attributes:
        item: without its context. None for distractors.
    """

    sentences: tuple[str, ...]
    item: Item | None = None


def plant(rng: random.Random, split: Split, facts: int, hard: tuple[str, ...], absent: int) -> list[Planted]:
    """Facts for one document.

    Args:
        facts: number of questions that one sentence answers. Half of them have a distractor: the same
            property of another thing.
        hard: kinds of harder questions, from `HARD`, one each.
        absent: number of questions that the document does not answer; each asks for a property that the
            document states of another thing.
    """
    values = Values(rng, split)
    known = attributes(split)
    chosen = rng.sample(known, min(facts, len(known)))
    chosen += rng.choices(known, k=facts - len(chosen))
    found = [_fact(attribute, values, rng) for attribute in chosen]
    found += [Planted(_fact(attribute, values, rng).sentences) for attribute in chosen[: facts // 2]]
    found += [_HARD[kind](values, rng, split) for kind in hard]
    # An invented material could not be told from other words; see namm_runtime.evaluate.replies.
    asked = [attribute for attribute in chosen if attribute.value != "material"] or chosen
    found += [_absent(attribute, values) for attribute in rng.choices(asked, k=absent)]
    return found


def _fact(attribute: Attribute, values: Values, rng: random.Random) -> Planted:
    name, value = values.name(), values.draw(attribute.value)
    statement = rng.choice(attribute.statements).replace("{name}", name)
    lead = statement.partition("{value}")[0].rstrip()
    item = Item(
        "fact", "", attribute.question.replace("{name}", name), (value,), "recall", Forced(lead, f" {value}")
    )
    return Planted((statement.replace("{value}", value),), item)


def _absent(attribute: Attribute, values: Values) -> Planted:
    question = attribute.question.replace("{name}", values.name())
    return Planted((), Item("absent", "", question, (), "not_found"))


def _two_places(values: Values, rng: random.Random, split: Split) -> Planted:
    noun, name, person, room = NOUNS[split].led, values.name(), values.person(), values.draw("small")
    sentences = [f"{person} is in charge of the {name} {noun}.", f"The office of {person} is in room {room}."]
    rng.shuffle(sentences)
    question = f"In which room is the office of the person in charge of the {name} {noun}?"
    lead = f"The person in charge of the {name} {noun} has an office in room"
    item = Item("two_places", "", question, (room,), "recall", Forced(lead, f" {room}"))
    return Planted(tuple(sentences), item)


def _order(values: Values, rng: random.Random, split: Split) -> Planted:
    noun = NOUNS[split].opened
    years = sorted(rng.sample(range(1950, 2020), 3))
    names = [values.name() for _ in years]
    sentences = [f"The {name} {noun} was opened in {year}." for name, year in zip(names, years, strict=True)]
    rng.shuffle(sentences)
    a, b, c = rng.sample(names, 3)
    question = f"Which {noun} was opened first: {a}, {b} or {c}?"
    lead = f"The {noun} that was opened first is"
    forced = Forced(lead, f" {names[0]}")
    item = Question("order", "", question, (names[0],), "classification", forced, classes=tuple(names))
    return Planted(tuple(sentences), item)


def _count(values: Values, rng: random.Random, split: Split) -> Planted:
    noun, name = NOUNS[split].failing, values.name()
    times = rng.randint(2, 5)
    sentences = [f"A fault at the {name} {noun} was reported on {values.draw('day')}." for _ in range(times)]
    question = f"How many faults at the {name} {noun} were reported?"
    lead = f"The number of faults reported at the {name} {noun} is"
    item = Item("count", "", question, (str(times),), "first_number", Forced(lead, f" {times}"))
    return Planted(tuple(sentences), item)


def _latest(values: Values, rng: random.Random, split: Split) -> Planted:
    noun, unit, name = NOUNS[split].limited, NOUNS[split].unit, values.name()
    wordings = [
        f"The daily limit of the {name} {noun} is {{}} {unit}.",
        f"Amendment: the daily limit of the {name} {noun} is changed to {{}} {unit}.",
        f"A later amendment sets the daily limit of the {name} {noun} to {{}} {unit}.",
    ][: rng.randint(2, 3)]
    limits = [values.draw("small") for _ in wordings]
    sentences = tuple(wording.format(limit) for wording, limit in zip(wordings, limits, strict=True))
    question = f"What is the daily limit of the {name} {noun} after all amendments?"
    lead = f"After all amendments, the daily limit of the {name} {noun} is"
    item = Item("latest", "", question, (limits[-1],), "recall", Forced(lead, f" {limits[-1]}"))
    return Planted(sentences, item)


_HARD: dict[str, Callable[[Values, random.Random, Split], Planted]] = {
    "two_places": _two_places,
    "order": _order,
    "count": _count,
    "latest": _latest,
}
