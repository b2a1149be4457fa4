"""Token sequences for training: a document and then several questions with their answers."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

from namm_runtime.tasks.documents import FillerKind, filler_pieces
from namm_runtime.tasks.facts import sample_facts
from namm_runtime.tasks.words import Split

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Texts to token ids, one list each, without special tokens."""


class Role(IntEnum):
    """What a token of a sequence is there for."""

    FILLER = 0
    FACT = 1  # a statement's beginning, up to its colon
    VALUE = 2  # the rest of the statement: what has to be remembered
    QUESTION = 3
    ANSWER = 4  # the answer's own tokens and its full stop
    STOP = 5  # the end-of-sequence token after an answer


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids and their roles, both of the asked length, and the index at which the questions begin."""

    ids: list[int]
    roles: list[Role]
    question_start: int


def make_sequence(
    encode: Encode,
    bos: int,
    eos: int,
    n_tokens: int,
    n_facts: int,
    n_questions: int,
    rng: random.Random,
    split: Split,
    filler: FillerKind,
) -> TokenSequence:
    """Build exactly `n_tokens` tokens: BOS, filler and facts, then questions answered and closed with EOS.

    Facts and questions that do not fit are left out. Raises ValueError where not even one question fits.
    """
    facts = sample_facts(n_facts, rng, split)
    prompts = encode([fact.prompt for fact in facts])
    completions = encode([fact.completion for fact in facts])

    room = n_tokens - 1
    planted: list[int] = []
    asked: list[int] = []
    wanted = {0, *rng.sample(range(1, n_facts), min(n_questions, n_facts) - 1)}
    for i in range(n_facts):
        size = len(prompts[i]) + len(completions[i])
        cost = 2 * size + 1 if i in wanted else size
        if cost <= room:
            room -= cost
            planted.append(i)
            asked += [i] if i in wanted else []
    if not asked:
        raise ValueError(f"{n_tokens} tokens do not hold one fact and its question")

    body = [[(Role.FILLER, piece)] for piece in _encode_filler(encode, room, rng, split, filler)]
    for i in planted:
        statement = [(Role.FACT, prompts[i]), (Role.VALUE, completions[i])]
        body.insert(rng.randint(0, len(body)), statement)

    ids, roles = [bos], [Role.FILLER]
    for role, piece in chain.from_iterable(body):
        ids += piece
        roles += [role] * len(piece)
    question_start = len(ids)
    rng.shuffle(asked)
    for i in asked:
        ids += prompts[i] + completions[i] + [eos]
        roles += [Role.QUESTION] * len(prompts[i]) + [Role.ANSWER] * len(completions[i]) + [Role.STOP]
    return TokenSequence(ids, roles, question_start)


def _encode_filler(
    encode: Encode, room: int, rng: random.Random, split: Split, kind: FillerKind
) -> list[list[int]]:
    """Return pieces of filler of `room` tokens in all; the last is cut to fit."""
    pieces: list[list[int]] = []
    source = filler_pieces(kind, rng, split)
    while room > 0:
        for piece in encode([next(source) for _ in range(1 + room // 64)]):
            if room > 0:
                pieces.append(piece[:room])
                room -= len(pieces[-1])
    return pieces
