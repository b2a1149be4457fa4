"""What can a policy know at all? How well a model's attention and keys tell needed values from look-alikes.

A policy that goes by attention can be no better than what the model looks at, one that goes by keys no better
than what keys say. Documents of the test split are read with the full cache; of all values stated before the
last quarter, those that a question will ask for should be looked at more by that quarter, or have keys less
like the mean key, than those that no question needs. The figure is the probability that one drawn from each
is in the right order (the area under the ROC curve): 0.5 is chance.

`python -m benchmarks.tells '{"model": "bundled", "tokens": 4096, "documents": 8}'` prints JSON rows.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from namm_runtime.bundled import MODELS
from namm_runtime.bundled.forward import Trace, key_similarity, traced_forward
from namm_runtime.bundled.init import MATCH_LAYER
from namm_runtime.machine import machine
from namm_runtime.tasks.layout import FLAVOURS
from namm_runtime.tasks.sequences import make_sequence
from namm_runtime.tasks.story import Role
from namm_runtime.tasks.suite import encoder

Row = dict[str, Any]

FAMILIES = ("instructed", "overwritten", "distractors", "keypoints")  # that state values nobody asks for
_QUESTIONS = 8
_EVERY = 8  # of the last quarter's tokens, as queries


def measure(model: str, tokens: int, documents: int) -> list[Row]:
    """A row for each family, means over documents and over the heads of layers from the match on."""
    folder = MODELS.get(model) or Path(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llama = LlamaForCausalLM.from_pretrained(folder).eval()
    encode = encoder(tokenizer)
    rows = []
    for family in FAMILIES:
        found = []
        for number in range(documents):
            rng = random.Random(f"tells:{family}:{number}")
            flavour = FLAVOURS[number % len(FLAVOURS)]
            ends = tokenizer.bos_token_id, tokenizer.eos_token_id
            sequence = make_sequence(encode, *ends, tokens, family, _QUESTIONS, rng, "test", flavour)
            end = sequence.question_start
            with torch.no_grad():
                trace = traced_forward(llama, torch.tensor([sequence.ids[:end]]), torch.tensor([end]))
            found.append(_told(trace, torch.tensor(sequence.roles[:end])))
        attention, keys = (sum(values) / documents for values in zip(*found, strict=True))
        rows.append({"model": model, "family": family, "tokens": tokens, "documents": documents})
        rows[-1] |= {"by_attention": round(attention, 4), "by_keys": round(keys, 4), "machine": machine()}
    return rows


def _told(trace: Trace, roles: Tensor) -> tuple[float, float]:
    """How well attention and how well keys tell needed values from the others of one document."""
    begin = 3 * len(roles) // 4
    early = torch.arange(len(roles)) < begin
    needed = (roles == Role.VALUE) & early
    others = ((roles == Role.OTHER) | (roles == Role.PAST)) & early
    queries = torch.arange(begin, len(roles), _EVERY)
    everything = torch.ones(1, len(roles), dtype=torch.bool)
    attention, keys = [], []
    for layer in range(MATCH_LAYER, len(trace.keys)):
        looks = _looks(trace.rotated_queries[layer][0], trace.rotated_keys[layer][0], queries)
        distinct = -key_similarity(trace.keys[layer], everything)[0]
        attention += [area_under_curve(head[needed], head[others]) for head in looks]
        keys += [area_under_curve(head[needed], head[others]) for head in distinct]
    return sum(attention) / len(attention), sum(keys) / len(keys)


def _looks(queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """Attention [H, L] that keys [Hkv, L, D] get from queries [H, L, D], mean over some rows."""
    spread = keys.repeat_interleave(len(queries) // len(keys), 0)
    scores = queries[:, rows] @ spread.transpose(1, 2) * keys.shape[-1] ** -0.5
    unseen = torch.arange(keys.shape[1]) > rows[:, None]
    looks: Tensor = scores.masked_fill(unseen, -torch.inf).softmax(-1).mean(1)
    return looks


def area_under_curve(higher: Tensor, lower: Tensor) -> float:
    """The probability that a value of the first is above one of the second, ties counted half."""
    lower = lower.sort().values
    below = torch.searchsorted(lower, higher) + torch.searchsorted(lower, higher, right=True)
    return float(below.double().mean() / 2 / len(lower))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
