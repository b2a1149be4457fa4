"""Accuracy by family, length and policy: `python -m namm_runtime.training.evaluate DIR`.

A quick evaluation for the model card, through the serving path but with teacher forcing: an answer is correct
if each of its tokens and its full stop is the model's first choice, which is exactly when greedy decoding
would write it. The full comparison of policies is `namm evaluate`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from namm_runtime import policies
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine.memory import Memory
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies.base import Policy
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.layout import Piece
from namm_runtime.tasks.story import Role
from namm_runtime.tasks.suite import encoder, laid_out
from namm_runtime.tasks.words import Split
from namm_runtime.training.model_card import write_card

INTERVAL = 512
POLICIES = ("oracle", "keydiff", "h2o", "streaming")


@dataclass(frozen=True, slots=True)
class Cell:
    """How many answers and answer tokens were correct.

    `share` is the share of the document's tokens that each head keeps, None for all.
    """

    family: str
    tokens: int
    policy: str
    share: float | None
    right: int
    questions: int
    tokens_right: int
    tokens_asked: int


class Oracle(Policy):
    """Keeps the tokens known to be needed, then the newest ones; an upper bound for reference."""

    name = "oracle"

    def __init__(self, relevant: Tensor) -> None:
        self.relevant = relevant  # [T] bool

    def scores(self, layer: BoundedLayer) -> Tensor:
        positions = layer.positions[:, :, : layer.used]
        return positions.double() + 1e9 * self.relevant[positions]


@torch.inference_mode()
def evaluate(
    model: LoadedModel,
    family: str,
    tokens: int,
    policy: str = "full",
    share: float | None = None,
    documents: int = 4,
    questions: int = 8,
    split: Split = "test",
    seed: int = 0,
) -> Cell:
    """Ask up to `questions` questions of each of `documents` documents."""
    encode = encoder(model.tokenizer)
    cell = [0, 0, 0, 0]
    for pieces, asked in laid_out(family, split, tokens, documents, seed, encode):
        memory = _read(model, pieces, policy, share)
        for question in asked[:questions]:
            prompt, completion = encode([question.prompt, question.completion])
            guesses = memory.fork().logits(torch.tensor([prompt + completion[:-1]]))[0].argmax(-1)
            right = guesses[len(prompt) - 1 :] == torch.tensor(completion)
            for i, value in enumerate((right.all(), 1, right.sum(), len(right))):
                cell[i] += int(value)  # type: ignore[call-overload]
    return Cell(family, tokens, policy, share, *cell)


def _read(model: LoadedModel, pieces: Sequence[Piece], policy: str, share: float | None) -> Memory:
    prefix = list(model.frame.prefix)
    ids = prefix + [i for piece in pieces for i in piece.ids]
    roles = [Role.HEADER] * len(prefix) + [piece.role for piece in pieces for _ in piece.ids]
    budget = None if share is None else int(share * len(ids))
    relevant = torch.tensor([role in (Role.VALUE, Role.HEADER) for role in roles])
    made = Oracle(relevant) if policy == "oracle" else policies.make(policy, budget)
    memory = Memory(model, made, budget, INTERVAL, by_slot=share is not None)
    memory.feed(torch.tensor([ids]))
    if memory.evicting and memory.cache.pending:
        # When a long document is asked about, most of it has been through an eviction; here all of it.
        memory.policy.evict(memory.cache)
    return memory


def cells(model: LoadedModel, quick: bool) -> Iterator[Cell]:
    """The figures for the card: the full cache at several lengths, policies at a quarter and an eighth."""
    for family in FAMILIES:
        for tokens in (1024,) if quick else (1024, 2048, 4096, 8192):
            yield evaluate(model, family, tokens)
        for share in (0.25,) if quick else (0.25, 0.12):
            for policy in POLICIES:
                yield evaluate(model, family, 1024 if quick else 4096, policy, share)


def main() -> None:
    """Print one JSON line per cell, add them to training.json and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quick", action="store_true", help="1,024 tokens only, and write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    found = []
    for cell in cells(model, arguments.quick):
        found.append(asdict(cell))
        sys.stdout.write(json.dumps(found[-1]) + "\n")
        sys.stdout.flush()
    if not arguments.quick:
        path = arguments.model / "training.json"
        record = json.loads(path.read_text()) | {"evaluation": found}
        path.write_text(json.dumps(record, indent=1) + "\n")
        write_card(arguments.model, record)


if __name__ == "__main__":
    main()
