"""How well candidates remember: the probability of the right answers after reading in a small cache.

All candidates read the same documents in one batch: rows are candidate × document, each row scored with its
own candidate's parameters, the model shared.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from namm_runtime.checkpoint import Scorer
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.loading import LoadedModel
from namm_runtime.memory import Memory
from namm_runtime.policies.base import Policy
from namm_runtime.policies.namm import Namm
from namm_runtime.tasks import Split
from namm_runtime.tasks.sequences import TokenSequence, make_sequence
from namm_runtime.tasks.story import Role

WORST = -6.0  # log-probability floor of one answer token, so that a hopeless one does not drown the rest


@dataclass(frozen=True)
class Exam:
    """Documents with questions, tokenised.

    Attributes:
        documents: [D, T] ids.
        questions: [D, Q] ids of questions and answers behind each other, padded on the right.
        answers: [D, Q] bool, which of them are answer tokens.
        groups: [D, Q] number of the question each answer token belongs to.
    """

    documents: Tensor
    questions: Tensor
    answers: Tensor
    groups: Tensor


@dataclass(frozen=True)
class Marks:
    """Per row: mean clipped log-probability of answer tokens, and share of questions answered exactly."""

    log_probability: Tensor
    exact: Tensor


def make_exam(model: LoadedModel, config: EvolutionConfig, documents: int, seed: int, split: Split) -> Exam:
    """Draw documents of exactly `config.tokens` tokens and their questions."""
    rng = random.Random(f"{split}:{seed}")
    tokenizer = model.tokenizer

    def encode(texts: object) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    room = min(config.interval, 40 * config.questions)
    sequences: list[TokenSequence] = []
    while len(sequences) < documents:
        sequence = make_sequence(
            encode, tokenizer.bos_token_id, tokenizer.eos_token_id, config.tokens + room, "kv",
            config.questions, rng, split, config.filler[len(sequences) % len(config.filler)],
        )  # fmt: skip
        if config.tokens <= sequence.question_start:
            sequences.append(sequence)
    longest = max(len(s.ids) - s.question_start for s in sequences)
    bodies, tails, answers, groups = [], [], [], []
    for s in sequences:
        bodies.append(_body(s, config.tokens))
        tail, roles = s.ids[s.question_start :], s.roles[s.question_start :]
        pad = longest - len(tail)
        tails.append(tail + [tokenizer.eos_token_id] * pad)
        answers.append([role == Role.ANSWER for role in roles] + [False] * pad)
        number, inside = -1, False
        marks = []
        for role in roles:
            number += role == Role.ANSWER and not inside
            inside = role == Role.ANSWER
            marks.append(max(number, 0))
        groups.append(marks + [0] * pad)
    return Exam(*(torch.tensor(x, device=model.device) for x in (bodies, tails, answers, groups)))


def _body(sequence: TokenSequence, tokens: int) -> list[int]:
    """The document without its questions, cut to `tokens` by leaving out filler, never a fact.

    It then ends at an eviction, as most of a long document does.
    """
    document = range(1, sequence.question_start)
    filler = [place for place in document if sequence.roles[place] == Role.FILLER]
    left_out = set(filler[: sequence.question_start - tokens])
    return [sequence.ids[place] for place in range(sequence.question_start) if place not in left_out]


def sit(
    model: LoadedModel, config: EvolutionConfig, policy: Policy, exam: Exam, candidates: int = 1
) -> Marks:
    """Read the documents under a policy and mark the answers. Rows: candidate × document."""
    memory = Memory(model, policy, config.budget, config.interval, by_slot=True)
    memory.feed(exam.documents.repeat(candidates, 1))
    questions, wanted = exam.questions.repeat(candidates, 1), exam.answers.repeat(candidates, 1)
    logits = memory.logits(questions)[:, :-1]
    wanted, target = wanted[:, 1:], questions[:, 1:]
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, target.unsqueeze(-1)).squeeze(-1).clamp(min=WORST)
    wrong = (logits.argmax(-1) != target) & wanted
    groups = exam.groups.repeat(candidates, 1)[:, 1:]
    asked = torch.zeros(len(wanted), int(groups.max()) + 1, device=wanted.device)
    missed = asked.scatter_add(1, groups, wrong.float()) > 0
    present = asked.scatter_add(1, groups, wanted.float()) > 0
    return Marks(
        (chosen * wanted).sum(1) / wanted.sum(1),
        1 - (missed & present).sum(1) / present.sum(1),
    )


def mark_population(
    model: LoadedModel, config: EvolutionConfig, scorer: Scorer, population: Tensor, exam: Exam
) -> Marks:
    """Mark population [P, size] → [P, D] each."""
    documents = len(exam.documents)
    policy = Namm(scorer, population.repeat_interleave(documents, dim=0))
    marks = sit(model, config, policy, exam, len(population))
    return Marks(marks.log_probability.view(-1, documents), marks.exact.view(-1, documents))


def split_exam(exam: Exam, size: int) -> Iterator[Exam]:
    """Parts of at most `size` documents, so that a large exam fits in memory."""
    for part in zip(*(torch.split(x, size) for x in vars(exam).values()), strict=True):
        yield Exam(*part)
