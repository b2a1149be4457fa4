"""Training batches: their lengths, families, filler and positions."""

import random
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from namm_runtime.tasks.documents import FillerKind
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.layout import Encode
from namm_runtime.tasks.sequences import make_sequence
from namm_runtime.tasks.story import Role
from namm_runtime.training.shapes import WINDOW
from namm_runtime.training.traced_forward import Mistakes, View

TOKENS_PER_BATCH = 4096  # or one sequence, if that is longer
# Length in tokens, and the share of the training from which on it is used.
LENGTHS = (
    (64, 0.0),
    (128, 0.02),
    (256, 0.05),
    (512, 0.1),
    (1024, 0.15),
    (2048, 0.3),
    (4096, 0.6),
    (8192, 0.85),
)

_SHORTER_SHARE = 0.5
_LONGEST_SHARE = 0.25  # of the steps, once sequences fill a batch or more
_MAX_QUESTIONS = 40
_FILLERS: tuple[FillerKind, ...] = ("stdlib", "mixed", "business", "contract", "invoice", "minutes")
_FILLER_WEIGHTS = (5, 2, 2, 1, 1, 1)
# This share of the batches has gaps between positions, so that the model learns distances up to the window.
_SPREAD_SHARE = 0.3
_MAX_CUTS = 3
# In this share of the steps questions see a shrunken cache: the relevant values and some of the rest.
_EVICTION_SHARE = 0.7
_KEPT_OF_REST = (0.0, 0.15)
# In this share of those, layers before the match layer keep the same tokens as the others.
_SAME_BEFORE_SHARE = 0.5
# From this share of the training on there is clutter: documents with a shrunken cache start with junk, and
# the layers before the match layer are trained to ignore it. Layer 1 has to learn its task before, or never
# does.
_CLUTTER_FROM = 0.35
# Range of the number of junk tokens: a million tokens fill a cache with tokens unlike those of short
# documents.
_JUNK = (0, 512)
_JUNK_TYPES = (1, 256)


@dataclass(slots=True)
class Batch:
    """One optimiser step's sequences, all of one length."""

    ids: Tensor  # [B, L] int64
    roles: Tensor  # [B, L] uint8, values of tasks.story.Role
    question_starts: Tensor  # [B] index of the first question token
    families: list[str]
    plain: Tensor  # [B] bool, Family.plain
    marked: Tensor  # [B] bool, Family.marked
    cluttered: bool  # whether layers before the match layer are trained to ignore clutter
    junk: Tensor  # [B, L] bool, meaningless tokens that replace filler
    view: View | None  # the part of the document that questions see; None for all of it
    positions: Tensor  # [L] int64, ascending


def draw_length(done: float, rng: random.Random) -> int:
    """The longest length at this share of the training, or sometimes a shorter one."""
    reached = [length for length, start in LENGTHS if done >= start]
    longest = reached[-1]
    shorter = 1 - _LONGEST_SHARE if longest >= TOKENS_PER_BATCH else _SHORTER_SHARE
    if len(reached) > 1 and rng.random() < shorter:
        return rng.choice(reached[:-1])
    return longest


def make_batch(
    tokenizer: PreTrainedTokenizerFast,
    encode: Encode,
    length: int,
    weights: dict[str, float],
    rng: random.Random,
    done: float = 1.0,
) -> Batch:
    """Draw a batch of the training split at one length, with families by weight.

    `done` is the share of the training that is done.
    """
    cluttered = done >= _CLUTTER_FROM
    count = max(1, TOKENS_PER_BATCH // length)
    families = rng.choices(list(weights), list(weights.values()), k=count)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    questions = min(_MAX_QUESTIONS, max(1, length // 32))
    sequences = [
        make_sequence(
            encode,
            bos,
            eos,
            length,
            family,
            questions,
            rng,
            "train",
            rng.choices(_FILLERS, _FILLER_WEIGHTS)[0],
        )
        for family in families
    ]
    ids = torch.tensor([sequence.ids for sequence in sequences])
    roles = torch.tensor([sequence.roles for sequence in sequences], dtype=torch.uint8)
    view, junk = None, torch.zeros_like(roles, dtype=torch.bool)
    if rng.random() < _EVICTION_SHARE:
        if cluttered:
            junk = _draw_junk(ids, roles, len(tokenizer), rng)
        view = _draw_view(roles, junk, rng)
    return Batch(
        ids=ids,
        roles=roles,
        question_starts=torch.tensor([sequence.question_start for sequence in sequences]),
        families=families,
        plain=torch.tensor([FAMILIES[family].plain for family in families]),
        marked=torch.tensor([FAMILIES[family].marked for family in families]),
        cluttered=cluttered,
        junk=junk,
        view=view,
        positions=_draw_positions(length, rng),
    )


def _draw_view(roles: Tensor, junk: Tensor, rng: random.Random) -> View:
    """The tokens an oracle would keep, junk, and some of the rest that a policy would keep by mistake."""
    rest = rng.uniform(*_KEPT_OF_REST)
    # Layers before the match layer also attend to earlier tokens while a document is read, and see what a
    # policy has left: of old tokens they need only instructions, but may be left with all that others need.
    before = (roles == Role.HEADER) | junk
    needed = (roles == Role.VALUE) | before
    if rng.random() < _SAME_BEFORE_SHARE:
        before = needed
    mistakes = rng.choice(get_args(Mistakes))
    if mistakes != "random":
        return View(needed, before, rest, mistakes)
    generator = torch.Generator(roles.device).manual_seed(rng.getrandbits(62))
    kept = torch.rand(roles.shape, generator=generator) < rest
    return View(needed | kept, before | kept)


def _draw_junk(ids: Tensor, roles: Tensor, vocab: int, rng: random.Random) -> Tensor:
    """Overwrite filler at the beginning with junk → [B, L] bool, its positions.

    A few tokens many times, or many tokens a few times: a policy's mistakes look like either.
    """
    junk = roles == Role.FILLER
    junk[:, 0] = False  # BOS
    junk[:, rng.randint(*_JUNK) + 1 :] = False
    junk[:, ids.shape[1] // 2 :] = False
    types = [rng.randrange(2, vocab) for _ in range(rng.randint(*_JUNK_TYPES))]
    ids[junk] = torch.tensor(rng.choices(types, k=int(junk.sum())), dtype=ids.dtype)
    return junk


def _draw_positions(length: int, rng: random.Random) -> Tensor:
    positions = torch.arange(length)
    if rng.random() < _SPREAD_SHARE:
        for _ in range(rng.randint(1, _MAX_CUTS)):
            positions[rng.randrange(length) :] += rng.randrange((WINDOW - length) // _MAX_CUTS)
    return positions
