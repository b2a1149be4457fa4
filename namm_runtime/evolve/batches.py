"""The tokenised documents and questions that candidates are evaluated on, all of one length."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from namm_runtime.errors import Refusal
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.model.loading import LoadedModel
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.layout import FLAVOURS, Encode, Piece, lay_out, write_story
from namm_runtime.tasks.story import Question, Role, Story
from namm_runtime.tasks.suite import encoder
from namm_runtime.tasks.words import Split

NEEDED = (Role.VALUE, Role.HEADER)
FOREVER = 1 << 40
_TRIES = 12
_TOKENS_A_QUESTION = 48


@dataclass(frozen=True)
class DocumentSample:
    """Which documents to generate. The same sample gives the same documents in every process.

    Attributes:
        families: the family of each document.
    """

    split: Split
    seed: int
    families: tuple[str, ...]

    def chunks(self, size: int) -> list["DocumentSample"]:
        """The same documents in samples of at most `size`."""
        ends = range(0, len(self.families), size)
        return [
            DocumentSample(self.split, self.seed + begin, self.families[begin : begin + size])
            for begin in ends
        ]


@dataclass(frozen=True)
class DocumentBatch:
    """Tokenised documents with questions. A document ends at an eviction, as most of a long one does.

    Attributes:
        documents: [D, T] token ids.
        until: [D, T] int64, position up to which each token is needed; 0 if it never is. A value that is
            overwritten later in the document is needed until then.
        questions: [D, Q] token ids of all questions and answers, concatenated and padded on the right.
        answers: [D, Q] bool, which of them are answer tokens.
        numbers: [D, Q] index of the question that each token belongs to.
    """

    documents: Tensor
    until: Tensor
    questions: Tensor
    answers: Tensor
    numbers: Tensor


def make_document_batch(model: LoadedModel, config: EvolutionConfig, sample: DocumentSample) -> DocumentBatch:
    """Generate the documents of a sample, each of exactly `config.tokens` tokens.

    Raises:
        Refusal: `bad_config` if a family's smallest document does not fit or needs more slots than allowed,
            or if a question is longer than an interval.
    """
    encode = encoder(model.tokenizer)
    documents, until, tails = [], [], []
    for number, family in enumerate(sample.families):
        rng = random.Random(f"evolution:{sample.split}:{sample.seed + number}:{family}")
        pieces, story = _document(model, config, family, sample.split, rng, encode)
        pieces.insert(0, Piece(Role.HEADER, "", tuple(model.frame.prefix)))
        documents.append([i for piece in pieces for i in piece.ids])
        until.append(_needed_until(pieces))
        tails.append(_tail(story.questions, config, model.tokenizer.eos_token_id, encode))
    longest = max(len(ids) for ids, _, _ in tails)
    padding = (model.tokenizer.eos_token_id, False, 0)
    padded = (
        [part + [pad] * (longest - len(part)) for part in parts]
        for parts, pad in zip(zip(*tails, strict=True), padding, strict=True)
    )
    return DocumentBatch(*(torch.tensor(x, device=model.device) for x in (documents, until, *padded)))


def _document(
    model: LoadedModel,
    config: EvolutionConfig,
    family: str,
    split: Split,
    rng: random.Random,
    encode: Encode,
) -> tuple[list[Piece], Story]:
    """A story with as many statements as the cache can hold, padded with filler to the full length."""
    filler = FLAVOURS[rng.randrange(len(FLAVOURS))]
    room, most = config.tokens - len(model.frame.prefix), config.relevant * config.budget
    share = FAMILIES[family].share
    for _ in range(_TRIES):
        story, lines, used = write_story(family, split, rng, room, encode, share)
        needed = sum(len(piece.ids) for line in lines for piece in line if piece.role in NEEDED)
        if needed <= most and used <= room:
            return lay_out(story, lines, room - used, encode, rng, split, filler, cut=True), story
        share = min(share, used / room) * max(0.3, min(0.9, most / needed))
    raise Refusal(
        "bad_config",
        f"no document of the family {family} fits {config.tokens} tokens and {most:.0f} slots; "
        "increase tokens, budget or relevant (a larger budget leaves more slots)",
    )


def _needed_until(pieces: list[Piece]) -> list[int]:
    until: list[int] = []
    standing: dict[
        tuple[str, ...], tuple[int, int]
    ] = {}  # record → span of its latest value, overwritten later
    record: tuple[str, ...] = ()
    for piece in pieces:
        begin, end = len(until), len(until) + len(piece.ids)
        if piece.role == Role.FACT:
            record = tuple(piece.text.split()[:2])
        elif piece.role in (Role.PAST, Role.VALUE):
            first, last = standing.pop(record, (0, 0))
            until[first:last] = [begin] * (last - first)
        if piece.role == Role.PAST:
            standing[record] = (begin, end)
        needed = piece.role == Role.PAST or piece.role in NEEDED
        until += [FOREVER if needed else 0] * len(piece.ids)
    return until


def _tail(
    questions: tuple[Question, ...], config: EvolutionConfig, eos: int, encode: Encode
) -> tuple[list[int], list[bool], list[int]]:
    """Questions with their answers, as many as fit before the next eviction."""
    ids: list[int] = []
    answers: list[bool] = []
    numbers: list[int] = []
    room = min(config.interval, _TOKENS_A_QUESTION * config.questions)
    for number, question in enumerate(questions[: config.questions]):
        prompt, completion = encode([question.prompt, question.completion])
        tokens = len(prompt) + len(completion) + 1
        if tokens > config.interval:
            raise Refusal(
                "bad_config", f"a question with its answer takes {tokens} tokens; use a larger interval"
            )
        if number and len(ids) + tokens > room:
            break
        ids += [*prompt, *completion, eos]
        answers += [False] * len(prompt) + [True] * len(completion) + [False]
        numbers += [number] * tokens
    return ids, answers, numbers
