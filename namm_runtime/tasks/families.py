"""The task families: which statements a document contains, which of them matter, and the questions.

A statement is one short line, "\\nInvoice 4821 total: 931044.", and questions repeat its wording, so that a
model with a million parameters can learn to answer. Families differ in what has to be kept: everything that
looks like a fact, or only what the document itself marks as relevant.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from namm_runtime.tasks.facts import FIELDS, NAME_FIELDS, RECORDS, Fact, sample_facts
from namm_runtime.tasks.filler import ordinary_words
from namm_runtime.tasks.phrases import (
    DETERMINERS,
    HELD_OUT_WORDS,
    INSTRUCTIONS,
    REMARKS,
    REVISIONS,
    STATUSES,
    THINGS,
    VERBS,
    VERBS_OF_POINTS,
)
from namm_runtime.tasks.story import Question, Role, Statement, Story, statement
from namm_runtime.tasks.words import Split, compose_name, sample_name, sample_number

# The cache has the same size for a book as for a letter, so the number of relevant statements is bounded.
MOST_RELEVANT = 40
MOST_FACTS = 120

_MOST_KEYS = 1000
_VALUE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Family:
    """How documents of a family are generated.

    Attributes:
        write: (random generator, split, approximate number of statements) -> a story.
        share: maximum share of the document's tokens that are statements.
        plain: whether everything that looks like a fact may be asked for.
        marked: whether a statement and the text before it reveal if it will be asked for.
    """

    write: Callable[[random.Random, Split, int], Story]
    share: float
    plain: bool = False
    marked: bool = False


def _single(rng: random.Random, split: Split, n: int) -> Story:
    (fact,) = sample_facts(1, rng, split)
    return Story((_line(fact),), tuple(_wordings(fact, rng, split)))


def _recall(most: int) -> Callable[[random.Random, Split, int], Story]:
    def write(rng: random.Random, split: Split, n: int) -> Story:
        facts = sample_facts(min(n, most), rng, split)
        return Story(
            tuple(_line(fact) for fact in facts), _shuffled(rng, [_ask(fact, rng, split) for fact in facts])
        )

    return write


def _listing(rng: random.Random, split: Split, n: int) -> Story:
    """Several values of one key; a question asks for all of them, in text order."""
    facts: list[Fact] = []
    for record, number in _keys(rng, split, _between(n // 3, 1, 6)):
        values = _distinct(rng, lambda: str(sample_number(rng, split, 4)), rng.randint(2, 3))
        facts += [Fact(record, number, "room", value) for value in values]
    rng.shuffle(facts)
    answers: dict[str, tuple[str, ...]] = {}
    for fact in facts:
        answers[fact.question] = (*answers.get(fact.question, ()), fact.answer)
    questions = [
        Question(f"\n{_all(rng, split)} {key}", values, "recall" if len(values) > 1 else "exact")
        for key, values in answers.items()
    ]
    return Story(tuple(_line(fact) for fact in facts), _shuffled(rng, questions))


def _tracking(rng: random.Random, split: Split, n: int) -> Story:
    """Chains of references that end in a name; a question asks for the chain."""
    lines: list[Statement] = []
    questions = []
    numbers = iter(_distinct(rng, lambda: str(sample_number(rng, split, 4)), 30))
    for _ in range(_between(n // 3, 1, 10)):
        chain = [next(numbers) for _ in range(rng.choice((2, 2, 3)))] + [sample_name(rng, split)]
        lines += [statement(f"\nSee {a}:", f" {b}.") for a, b in pairwise(chain)]
        verb = rng.choice(("Trace", "Follow"))
        questions.append(Question(f"\n{verb} {chain[0]}:", (": ".join(chain[1:]),)))
    rng.shuffle(lines)
    return Story(tuple(lines), _shuffled(rng, questions))


def _frequent(rng: random.Random, split: Split, n: int) -> Story:
    """Codes logged repeatedly for a few keys; a question asks for a key's most frequent one."""
    lines: list[Statement] = []
    questions = []
    keys = _keys(rng, split, _between(n // 8, 1, 6))
    for record, number in keys:
        times = max(3, n // len(keys))
        codes = _distinct(rng, lambda: str(sample_number(rng, split, 2)), 5)
        often = max(2, round(times * 0.5))
        rest = [codes[1 + i % 4] for i in range(times - often)]
        facts = [Fact(record, number, "code", code) for code in [codes[0]] * often + rest]
        lines += [_line(fact) for fact in facts]
        questions.append(Question(f"\nMost frequent {facts[0].question}", (codes[0],)))
    rng.shuffle(lines)
    return Story(tuple(lines), _shuffled(rng, questions))


def _instructed(rng: random.Random, split: Split, n: int) -> Story:
    """The first line says which field will be asked for; the records contain many others."""
    wanted = rng.choice(FIELDS)
    header = _instruction(rng, split, wanted)
    body, questions = _marked(rng, split, n, FIELDS, wanted)
    return Story(body, questions, (((Role.HEADER, header),),))


def _distractors(rng: random.Random, split: Split, n: int) -> Story:
    """Records of eight kinds that look alike; only those marked final are asked for."""
    return Story(*_marked(rng, split, n, STATUSES, STATUSES[0]))


def _marked(
    rng: random.Random, split: Split, n: int, kinds: tuple[str, ...], wanted: str
) -> tuple[tuple[Statement, ...], tuple[Question, ...]]:
    """Statements of all kinds about the same records; those of the wanted kind are asked for."""
    relevant = _between(n // 4, 1, MOST_RELEVANT)
    others = tuple(kind for kind in kinds if kind != wanted)
    lines: list[Statement] = []
    questions = []
    keys = _keys(rng, split, _between(n // 4, relevant, _MOST_KEYS))
    for record, number in keys[:relevant]:
        fact = _fact(rng, split, record, number, wanted)
        lines.append(_line(fact))
        questions.append(_ask(fact, rng, split))
    for _ in range(n - relevant):
        lines.append(_line(_fact(rng, split, *rng.choice(keys), rng.choice(others)), Role.OTHER))
    rng.shuffle(lines)
    return tuple(lines), _shuffled(rng, questions)


def _overwritten(rng: random.Random, split: Split, n: int) -> Story:
    """Values that are restated under the next letter, at random positions; questions ask for the latest."""
    keys = _keys(rng, split, _between(n // 6, 1, 2 * MOST_RELEVANT))
    latest = {key: rng.uniform(0.1, 1.0) for key in keys}
    times = [(time, key) for key, time in latest.items()]
    stated = dict.fromkeys(keys, 1)
    for _ in range(n - len(keys)):
        key = rng.choice(keys)
        if stated[key] < len(REVISIONS):
            stated[key] += 1
            times.append((rng.uniform(0.0, latest[key]), key))
    lines: list[Statement] = []
    questions = []
    revisions = dict.fromkeys(keys, 0)
    for time, key in sorted(times):
        fact = _fact(rng, split, *key, REVISIONS[revisions[key]])
        revisions[key] += 1
        lines.append(_line(fact, Role.VALUE if time == latest[key] else Role.PAST))
        if time == latest[key]:
            verb = rng.choice(("", "", f"{rng.choice(VERBS[split])} "))
            questions.append(Question(f"\n{verb}{fact.record} {fact.number} latest:", (fact.answer,)))
    return Story(tuple(lines), _shuffled(rng, questions))


def _repeated(rng: random.Random, split: Split, n: int) -> Story:
    """The same statements repeated many times, some of them only once."""
    keys = _keys(rng, split, _between(n // 4, 1, MOST_RELEVANT))
    facts = [_fact(rng, split, *key, rng.choice(FIELDS)) for key in keys]
    again = facts[: max(1, len(facts) * 3 // 4)]
    first = {fact: rng.uniform(0.0, 0.9) for fact in facts}
    times = [(time, fact) for fact, time in first.items()]
    for _ in range(n - len(facts)):
        fact = rng.choice(again)
        times.append((rng.uniform(first[fact], 1.0), fact))
    times.sort(key=lambda at: at[0])
    lines = [_line(fact, Role.VALUE if time == first[fact] else Role.OTHER) for time, fact in times]
    return Story(tuple(lines), _shuffled(rng, [_ask(fact, rng, split) for fact in facts]))


def _keypoints(rng: random.Random, split: Split, n: int) -> Story:
    """Minutes with numbered remarks of several kinds; questions ask for the key points, word for word."""
    count = _between(n // 4, 1, 4)
    points = [_sentence(rng, split) for _ in range(count)]
    lines = [statement(f"\nKey point {i}:", f" {point}.") for i, point in enumerate(points, 1)]
    for _ in range(n - count):
        kind = rng.choice(REMARKS)
        lines.append(statement(f"\n{kind} {rng.randint(1, 9)}:", f" {_sentence(rng, split)}.", Role.OTHER))
    rng.shuffle(lines)
    questions = [Question(f"\nKey point {i}:", (point,)) for i, point in enumerate(points, 1)]
    return Story(tuple(lines), _shuffled(rng, questions))


FAMILIES: dict[str, Family] = {
    "single": Family(_single, 0.5, plain=True),
    "multi": Family(_recall(24), 0.1, plain=True),
    "kv": Family(_recall(MOST_FACTS), 0.3, plain=True),
    "listing": Family(_listing, 0.15),
    "tracking": Family(_tracking, 0.15),
    "frequent": Family(_frequent, 0.5),
    "instructed": Family(_instructed, 0.85, marked=True),
    "overwritten": Family(_overwritten, 0.85),
    "distractors": Family(_distractors, 0.85, marked=True),
    "repeated": Family(_repeated, 0.85),
    "keypoints": Family(_keypoints, 0.7, marked=True),
}


def _line(fact: Fact, end: Role = Role.VALUE) -> Statement:
    return statement(fact.prompt, fact.completion, end)


def _ask(fact: Fact, rng: random.Random, split: Split) -> Question:
    return rng.choices(_wordings(fact, rng, split), (5, 2, 2))[0]


def _wordings(fact: Fact, rng: random.Random, split: Split) -> list[Question]:
    """As stated, after a verb, and in another order."""
    prompts = (
        fact.prompt,
        f"\n{rng.choice(VERBS[split])} {fact.question}",
        f"\nThe {fact.field} of {fact.record} {fact.number}:",
    )
    return [Question(prompt, (fact.answer,)) for prompt in prompts]


def _all(rng: random.Random, split: Split) -> str:
    return rng.choice(("All", f"{rng.choice(VERBS[split])} all"))


def _instruction(rng: random.Random, split: Split, field: str) -> str:
    if split != "train" or rng.random() < 0.5:
        return rng.choice(INSTRUCTIONS[split]).replace("{field}", field)
    # Mostly meaningless words, so that the model learns to find the field in an unknown wording.
    before = [_training_word(rng) for _ in range(rng.randint(1, 3))]
    after = [_training_word(rng) for _ in range(rng.randint(0, 3))]
    return f"\n{' '.join((*before, rng.choice(DETERMINERS), field, *after)).capitalize()}."


def _fact(rng: random.Random, split: Split, record: str, number: int, field: str) -> Fact:
    # A name if the field has names; numbers of fixed length, so that their end is predictable.
    name = field in NAME_FIELDS
    answer = sample_name(rng, split) if name else str(sample_number(rng, split, _VALUE_DIGITS))
    return Fact(record, number, field, answer)


def _sentence(rng: random.Random, split: Split) -> str:
    verb, thing = rng.choice(VERBS_OF_POINTS[split]), rng.choice(THINGS[split])
    if split == "train" and rng.random() < 0.5:
        # Unknown words have to be copied token by token, which takes many different words to learn.
        verb, thing = _training_word(rng), _training_word(rng)
    return f"{sample_name(rng, split)} {verb} {thing} {sample_number(rng, split, 4)}"


def _training_word(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return compose_name(rng).lower()
    while True:
        word = rng.choice(ordinary_words())
        if word not in HELD_OUT_WORDS:
            return word


def _keys(rng: random.Random, split: Split, count: int) -> list[tuple[str, int]]:
    """Records with distinct numbers."""
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        numbers[sample_number(rng, split, 4)] = None
    return [(rng.choice(RECORDS), number) for number in numbers]


def _distinct(rng: random.Random, draw: Callable[[], str], count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)


def _shuffled(rng: random.Random, questions: list[Question]) -> tuple[Question, ...]:
    return tuple(rng.sample(questions, len(questions)))


def _between(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
