"""What the sender of a request should know about how its document was read."""

import torch
from torch import Tensor

from namm_runtime.engine.memory import Memory
from namm_runtime.engine.plan import Plan
from namm_runtime.engine.usage import Usage
from namm_runtime.scorer.models import knows

FIFTHS = 5
LONG = 2  # a document is long from this many times its budget on
PILED_UP = 0.5  # share of the slots in one fifth from which on they are said to pile up


def of(memory: Memory, plan: Plan, usage: Usage) -> list[dict[str, str]]:
    """The warnings about a document that has been read, each with a code and a message."""
    found = []
    if plan.scorer is not None and not knows(plan.scorer, plan.model):
        found.append(
            _warning(
                "scorer_not_measured",
                f"the scorer '{plan.scorer.name}' was neither fitted to the model '{plan.model.name}' nor "
                "measured on it",
            )
        )
    long = memory.budget is not None and usage.tokens_document >= LONG * memory.budget
    if long and plan.policy != "streaming":
        shares = slots_by_fifth(memory)
        worst = int(shares.argmax())
        if float(shares[worst]) > PILED_UP:
            place = ("first", "second", "third", "fourth", "last")[worst]
            found.append(
                _warning(
                    "slots_piled_up",
                    f"{float(shares[worst]):.0%} of what the policy '{plan.policy}' kept is in the {place} "
                    "fifth of the document; try another policy",
                )
            )
    return found


def no_larger_budget(plan: Plan) -> dict[str, str]:
    """Answers are at risk, and a reread was asked for but cannot help."""
    return _warning(
        "reread_not_possible",
        f"answers are at risk, but {plan.budget:,} slots are as many as fit the model's window",
    )


def slots_by_fifth(memory: Memory) -> Tensor:
    """Share of the kept slots in each fifth of what has been read, mean over layers and heads → [5]."""
    shares = []
    for layer in memory.cache.layers:
        fifths = layer.positions[:, :, : layer.start] * FIFTHS // max(1, layer.clock)
        if layer.ragged:
            fifths = fifths.masked_fill(layer.unused()[..., : layer.start], FIFTHS)
        counts = torch.bincount(fifths.flatten(), minlength=FIFTHS)[:FIFTHS].float().cpu()
        shares.append(counts / counts.sum().clamp(min=1))
    return torch.stack(shares).mean(0)


def _warning(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}
