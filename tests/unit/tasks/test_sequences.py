"""Token sequences: the asked length, roles that match the text, and no sequence without a question."""

import random
from collections.abc import Sequence

import pytest

from namm_runtime.tasks.sequences import Role, TokenSequence, make_sequence

BOS, EOS = 256, 257


def encode(texts: Sequence[str]) -> list[list[int]]:
    """Bytes as tokens."""
    return [list(text.encode()) for text in texts]


def build(n_tokens: int, n_facts: int = 6, n_questions: int = 3, seed: int = 0) -> TokenSequence:
    rng = random.Random(seed)
    return make_sequence(encode, BOS, EOS, n_tokens, n_facts, n_questions, rng, "train", "mixed")


def text_of(sequence: TokenSequence, *roles: Role) -> str:
    pairs = zip(sequence.ids, sequence.roles, strict=True)
    return bytes(token for token, role in pairs if role in roles and token < 256).decode(errors="replace")


@pytest.mark.parametrize("n_tokens", [100, 101, 400, 3000])
def test_length_is_exact(n_tokens: int) -> None:
    sequence = build(n_tokens)
    assert len(sequence.ids) == len(sequence.roles) == n_tokens
    assert sequence.ids[0] == BOS


def test_every_question_is_stated_before_and_answered_alike() -> None:
    sequence = build(3000)
    stated = text_of(sequence, Role.FACT, Role.VALUE)
    asked = text_of(sequence, Role.QUESTION, Role.ANSWER)
    sentences = asked.removeprefix("\n").split("\n")
    assert len(sentences) == 3
    assert all(f"\n{sentence}" in stated for sentence in sentences)
    assert sequence.roles.count(Role.STOP) == 3
    assert all(role >= Role.QUESTION for role in sequence.roles[sequence.question_start :])
    assert all(role < Role.QUESTION for role in sequence.roles[: sequence.question_start])


def test_what_does_not_fit_is_left_out() -> None:
    sequence = build(120, n_facts=50, n_questions=50)
    assert sequence.roles.count(Role.STOP) >= 1


def test_too_short_for_one_question_is_refused() -> None:
    with pytest.raises(ValueError, match="20 tokens do not hold"):
        build(20)


def test_the_seed_decides_everything() -> None:
    assert build(900, seed=4) == build(900, seed=4)
    assert build(900, seed=4) != build(900, seed=5)
