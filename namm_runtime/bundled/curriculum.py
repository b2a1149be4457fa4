"""Training batches: which length, how many facts and questions, which filler."""

import random
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from namm_runtime.tasks.documents import FillerKind
from namm_runtime.tasks.sequences import Encode, TokenSequence, make_sequence

LENGTHS = (64, 128, 256, 512, 1024, 2048)
PROMOTE_AT = 0.9
TOKENS_PER_BATCH = 4096

_FILLERS: tuple[FillerKind, ...] = ("stdlib", "business", "mixed")
_FILLER_WEIGHTS = (5, 3, 2)
_SHORTER_SHARE = 0.5
_EMA = 0.9
_MAX_FACTS, _MAX_QUESTIONS = 48, 40


def encoder(tokenizer: PreTrainedTokenizerFast) -> Encode:
    """Wrap a tokenizer as texts -> token ids without special tokens."""
    core: Tokenizer = tokenizer.backend_tokenizer
    return lambda texts: [e.ids for e in core.encode_batch(list(texts), add_special_tokens=False)]


@dataclass(slots=True)
class Batch:
    """One optimiser step's sequences, all of one length."""

    ids: Tensor  # [B, L] int64
    roles: Tensor  # [B, L] uint8, values of tasks.sequences.Role
    question_starts: Tensor  # [B] index of the first question token


@dataclass(slots=True)
class Curriculum:
    """Grows the length when the answers at the present one are right often enough."""

    rng: random.Random
    level: int = 0
    accuracy: dict[int, float] = field(default_factory=dict)  # length -> running answer-token accuracy

    def next_length(self) -> int:
        """Mostly the present length, sometimes a shorter one so that none is forgotten."""
        if self.level and self.rng.random() < _SHORTER_SHARE:
            return LENGTHS[self.rng.randrange(self.level)]
        return LENGTHS[self.level]

    def record(self, length: int, accuracy: float) -> bool:
        """Note a batch's accuracy; returns whether that raised the length."""
        before = self.accuracy.get(length)
        self.accuracy[length] = accuracy if before is None else _EMA * before + (1 - _EMA) * accuracy
        ready = length == LENGTHS[self.level] and self.accuracy[length] > PROMOTE_AT
        if not ready or self.level + 1 == len(LENGTHS):
            return False
        self.level += 1
        return True


def make_batch(tokenizer: PreTrainedTokenizerFast, encode: Encode, length: int, rng: random.Random) -> Batch:
    """Draw a batch of the training split at one length."""
    sequences = [_draw(tokenizer, encode, length, rng) for _ in range(TOKENS_PER_BATCH // length)]
    return Batch(
        ids=torch.tensor([sequence.ids for sequence in sequences]),
        roles=torch.tensor([sequence.roles for sequence in sequences], dtype=torch.uint8),
        question_starts=torch.tensor([sequence.question_start for sequence in sequences]),
    )


def _draw(
    tokenizer: PreTrainedTokenizerFast, encode: Encode, length: int, rng: random.Random
) -> TokenSequence:
    # A statement takes about 10 tokens; up to half of a sequence is statements, a third questions.
    n_facts = rng.randint(2, min(_MAX_FACTS, max(3, length // 20)))
    n_questions = min(_MAX_QUESTIONS, max(1, length // 32))
    filler = rng.choices(_FILLERS, _FILLER_WEIGHTS)[0]
    return make_sequence(
        encode,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        length,
        n_facts,
        n_questions,
        rng,
        "train",
        filler,
    )
