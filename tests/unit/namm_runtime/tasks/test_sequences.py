"""Token sequences: the asked length, roles that match the text, and no sequence without a question."""

import random
from collections.abc import Sequence

import pytest

from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.sequences import TokenSequence, make_sequence
from namm_runtime.tasks.story import Role

BOS, EOS = 256, 257


def encode(texts: Sequence[str]) -> list[list[int]]:
    """Bytes as tokens."""
    return [list(text.encode()) for text in texts]


def build(n_tokens: int, family: str = "multi", n_questions: int = 3, seed: int = 0) -> TokenSequence:
    rng = random.Random(seed)
    return make_sequence(encode, BOS, EOS, n_tokens, family, n_questions, rng, "train", "mixed")


def text_of(sequence: TokenSequence, *roles: Role) -> str:
    pairs = zip(sequence.ids, sequence.roles, strict=True)
    return bytes(token for token, role in pairs if role in roles and token < 256).decode(errors="replace")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_tokens", [400, 401, 3000])
def test_length_is_exact(n_tokens: int, family: str) -> None:
    sequence = build(n_tokens, family)
    assert len(sequence.ids) == len(sequence.roles) == n_tokens
    assert sequence.ids[0] == BOS
    assert 1 <= sequence.roles.count(Role.STOP) <= 3
    assert all(role >= Role.QUESTION for role in sequence.roles[sequence.question_start :])
    assert all(role < Role.QUESTION for role in sequence.roles[: sequence.question_start])


def test_what_is_answered_was_stated() -> None:
    sequence = build(3000)
    stated = text_of(sequence, Role.FACT, Role.VALUE)
    answers = text_of(sequence, Role.ANSWER).strip().removesuffix(".").split(". ")
    assert len(answers) == 3
    assert all(f": {answer}.\n" in stated + "\n" for answer in answers)


def test_the_header_stands_first() -> None:
    sequence = build(3000, "instructed")
    first = next(i for i, role in enumerate(sequence.roles) if role != Role.FILLER)
    assert first == 1
    assert sequence.roles[first] == Role.HEADER


def test_too_short_for_one_question_is_refused() -> None:
    with pytest.raises(ValueError, match="20 tokens are too few"):
        build(20)


def test_the_seed_decides_everything() -> None:
    assert build(900, seed=4) == build(900, seed=4)
    assert build(900, seed=4) != build(900, seed=5)
