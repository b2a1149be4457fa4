"""Token sequences for training: a document of a family, then several questions with their answers."""

import random
from dataclasses import dataclass

from namm_runtime.tasks.documents import FillerKind
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.layout import Encode, lay_out, write_story
from namm_runtime.tasks.story import Role
from namm_runtime.tasks.words import Split

_QUESTIONS_SHARE = 1 / 3
# Sparse families get more statements in training than in evaluation, for more answers per token.
_DENSE = 0.6
_TRIES = 8


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids and their roles, both of the requested length, and the index at which the questions start."""

    ids: list[int]
    roles: list[Role]
    question_start: int


def make_sequence(
    encode: Encode,
    bos: int,
    eos: int,
    n_tokens: int,
    family: str,
    n_questions: int,
    rng: random.Random,
    split: Split,
    filler: FillerKind,
) -> TokenSequence:
    """Build exactly `n_tokens` tokens: BOS, a document, then questions with answers, each followed by EOS.

    Questions beyond `n_questions`, or beyond a third of the tokens, are left out. Raises ValueError if not
    even one question fits.
    """
    for _ in range(_TRIES):
        share = rng.uniform(0.5 * FAMILIES[family].share, max(_DENSE, FAMILIES[family].share))
        story, lines, used = write_story(
            family, split, rng, int(n_tokens * (1 - _QUESTIONS_SHARE)), encode, share
        )
        room = n_tokens - 1 - used
        asked: list[tuple[list[int], list[int]]] = []
        for question in story.questions[:n_questions]:
            prompt, completion = encode([question.prompt, question.completion])
            cost = len(prompt) + len(completion) + 1
            if cost <= room and (not asked or room - cost >= n_tokens * (1 - _QUESTIONS_SHARE) - used):
                room -= cost
                asked.append((prompt, completion))
        if asked:
            break
    else:
        raise ValueError(f"{n_tokens} tokens are too few for a question of the family {family}")

    ids, roles = [bos], [Role.FILLER]
    for piece in lay_out(story, lines, room, encode, rng, split, filler, cut=True):
        ids += piece.ids
        roles += [piece.role] * len(piece.ids)
    question_start = len(ids)
    for prompt, completion in asked:
        ids += prompt + completion + [eos]
        roles += [Role.QUESTION] * len(prompt) + [Role.ANSWER] * len(completion) + [Role.STOP]
    return TokenSequence(ids, roles, question_start)
