"""Every family: within its length, seeded, answerable from its document, and apart from the other splits."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from namm_runtime.tasks.facts import NAME_FIELDS
from namm_runtime.tasks.families import MOST_RELEVANT
from namm_runtime.tasks.filler import _FLAVOURS
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.phrases import INSTRUCTIONS, THINGS, VERBS, VERBS_OF_POINTS
from namm_runtime.tasks.suite import FAMILIES, documents
from namm_runtime.tasks.words import NAMES, SPLITS, Split, split_of_number


class Words:
    """A tokenizer that counts words, numbers, marks and white space."""

    @staticmethod
    def __call__(texts: Sequence[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * len(re.findall(r"[A-Za-z]+|\d\d?|[^\w\s]|\s+", text)) for text in texts]}


class MergesLines(Words):
    """Counts a line break together with the full stop before it, as many tokenizers do."""

    @staticmethod
    def __call__(texts: Sequence[str], **_: object) -> dict[str, list[list[int]]]:
        return Words()([text.replace(".\n", "\n") for text in texts])


def draw(
    family: str, split: Split = "test", tokens: int = 1500, count: int = 3, seed: int = 0
) -> list[tuple[str, list[Item]]]:
    return list(documents(family, split, tokens, count, seed, Words()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokenizer", [Words(), MergesLines()])
@pytest.mark.parametrize("tokens", [200, 4000])
def test_documents_are_of_the_asked_length(
    family: str, tokens: int, tokenizer: Callable[..., dict[str, list[list[int]]]]
) -> None:
    for text, items in documents(family, "test", tokens, 4, 0, tokenizer):
        have = len(tokenizer([text])["input_ids"][0])
        assert tokens - max(250, 0.1 * tokens) <= have <= tokens
        assert items
        assert all(item.task == family and item.context is text for item in items)


@pytest.mark.parametrize("family", FAMILIES)
def test_seeded(family: str) -> None:
    assert draw(family) == draw(family)
    assert draw(family, seed=1) != draw(family)
    assert len({text for text, _ in draw(family, count=6)}) == 6
    assert draw(family, count=2) == draw(family, count=3)[:2]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_splits_own_numbers_and_names(family: str, split: Split) -> None:
    foreign = {name for other in SPLITS if other != split for name in NAMES[other]}
    for text, items in draw(family, split, count=6):
        lines = [
            line
            for line in text.splitlines()
            if re.match(r"[A-Z][a-z]+ (point )?\d+( [a-z]+| [A-H])?: ", line)
        ]
        asked = [f"{item.input} {' '.join(item.answers)}" for item in items]
        words = " ".join(lines + asked)
        numbers = [int(number) for number in re.findall(r"\d{2,}", words)]
        assert {split_of_number(number) for number in numbers} <= {split}
        if split == "train":  # half of its names are invented
            foreign = set(NAMES["validation"] + NAMES["test"])
        assert not foreign & set(re.findall(r"[A-Za-z]+", words))


@pytest.mark.parametrize("lists", [VERBS, INSTRUCTIONS, VERBS_OF_POINTS, THINGS, *_FLAVOURS.values()])
def test_wordings_of_the_splits_are_disjoint(lists: dict[Split, tuple[str, ...]]) -> None:
    drawn = [wording for split in SPLITS for wording in lists[split]]
    assert len(drawn) == len(set(drawn))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("frequent", "tracking")])
def test_answers_stand_in_the_document(family: str) -> None:
    for text, items in draw(family, count=6):
        for item in items:
            assert all(f": {answer}." in text for answer in item.answers)


def facts(text: str, kind: str = r"[A-Z][a-z]+ \d{4} [a-z]+") -> list[tuple[str, str]]:
    return re.findall(rf"^({kind}): (.+)\.$", text, re.MULTILINE)


def key(item: Item) -> str:
    """The statement's beginning that a question is about."""
    match = re.search(r"([A-Z][a-z]+) (\d{4})( [a-z]+)?:?$", item.input)
    assert match
    record, number, field = match.groups()
    return f"{record} {number}{field or ' ' + item.input.split()[1]}"


@pytest.mark.parametrize("family", ["multi", "kv", "instructed", "distractors", "repeated"])
def test_a_key_has_one_value(family: str) -> None:
    for text, items in draw(family, count=6):
        for item in items:
            assert {value for k, value in facts(text) if k == key(item)} == set(item.answers)


def test_the_latest_value_is_wanted() -> None:
    for text, items in draw("overwritten", count=6):
        stated = facts(text, r"[A-Z][a-z]+ \d{4} [A-H]")
        for item in items:
            record = key(item).removesuffix("latest")
            own = [(k[-1], value) for k, value in stated if k[:-1] == record]
            assert [letter for letter, _ in own] == list("ABCDEFGH"[: len(own)])
            assert own[-1][1] == item.answers[0]
        assert len(stated) >= 3 * len(items)


def test_a_list_is_whole_and_in_order() -> None:
    for text, items in draw("listing", count=6):
        for item in items:
            assert tuple(value for k, value in facts(text) if k == key(item)) == item.answers


def test_the_most_frequent_is_so_by_far() -> None:
    for text, items in draw("frequent", count=6):
        for item in items:
            (first, often), *rest = Counter(value for k, value in facts(text) if k == key(item)).most_common()
            assert first == item.answers[0]
            assert all(often >= 1.5 * times for _, times in rest)


def test_a_trace_follows_the_references() -> None:
    for text, items in draw("tracking", count=6):
        links = dict(facts(text, r"See \d{4}"))
        for item in items:
            at = item.input.split()[1].rstrip(":")
            for step in item.answers[0].split(": "):
                at = links[f"See {at}"]
                assert at == step
            assert f"See {at}" not in links


@pytest.mark.parametrize(("family", "kinds"), [("instructed", 9), ("distractors", 8)])
def test_what_is_asked_is_of_one_kind_among_many(family: str, kinds: int) -> None:
    for text, items in draw(family, tokens=4000):
        asked = {key(item).split()[-1] for item in items}
        assert len(asked) == 1
        assert {k.split()[-1] for k, _ in facts(text)} >= asked
        assert len({k.split()[-1] for k, _ in facts(text)}) == kinds
        assert len(facts(text)) >= 4 * len(items)
        if family == "instructed":
            assert asked.pop() in text.strip().splitlines()[0]


@pytest.mark.parametrize("family", ["instructed", "distractors", "repeated"])
def test_what_matters_does_not_grow_with_the_document(family: str) -> None:
    for text, items in draw(family, tokens=16_000, count=1):
        assert len(items) <= MOST_RELEVANT
        assert len(facts(text)) > 20 * len(items)


def test_some_repeated_statements_stand_once() -> None:
    for text, items in draw("repeated", tokens=4000):
        times = Counter(k for k, _ in facts(text))
        counts = [times[key(item)] for item in items]
        assert 1 in counts
        assert max(counts) >= 5


def test_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="5 tokens are too few"):
        draw("kv", tokens=5)
    with pytest.raises(KeyError):
        draw("riddles")


def test_questions_have_more_than_one_wording() -> None:
    openings = {item.input.split()[0] for _, items in draw("kv", tokens=4000) for item in items}
    assert {"The", "Give", "Invoice"} <= openings
    assert set(NAME_FIELDS) & {
        item.input.split()[1] for _, items in draw("kv", tokens=4000) for item in items
    }
