"""How well a model's attention and keys separate needed values from look-alikes: the limit for any policy.

An attention-based policy needs a model that attends to what matters; a key-based one needs keys that differ.
Documents of the test split are read with the full cache. Of all values stated before the last quarter, those
that a question asks for should receive more attention from that quarter, or have keys less similar to the
mean key, than those that no question needs. The figure is the probability that a random pair of both is in
the right order (the area under the ROC curve); 0.5 is chance.

`python -m benchmarks.separability '{"model": "bundled", "tokens": 4096, "documents": 8}'` prints JSON rows.
"""

import json
import random
import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.labels import Row
from namm_runtime.bundled import MODELS
from namm_runtime.machine import machine
from namm_runtime.tasks.layout import FLAVOURS
from namm_runtime.tasks.sequences import make_sequence
from namm_runtime.tasks.story import Role
from namm_runtime.tasks.suite import encoder
from namm_runtime.training.circuit_init import MATCH_LAYER
from namm_runtime.training.traced_forward import Trace, attention_from, key_similarity, traced_forward

FAMILIES = ("instructed", "overwritten", "distractors", "keypoints")  # they contain values nobody asks for
_QUESTIONS = 8
_EVERY = 8  # every eighth token of the last quarter is a query


def measure(model: str, tokens: int, documents: int) -> list[Row]:
    """One row per family: means over documents and over the heads from the match layer on."""
    folder = MODELS.get(model) or Path(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llama = LlamaForCausalLM.from_pretrained(folder).eval()
    encode, ends = encoder(tokenizer), (tokenizer.bos_token_id, tokenizer.eos_token_id)
    made, rows = machine(), []
    for family in FAMILIES:
        found = []
        for number in range(documents):
            rng = random.Random(f"tells:{family}:{number}")
            flavour = FLAVOURS[number % len(FLAVOURS)]
            sequence = make_sequence(encode, *ends, tokens, family, _QUESTIONS, rng, "test", flavour)
            end = sequence.question_start
            with torch.no_grad():
                trace = traced_forward(llama, torch.tensor([sequence.ids[:end]]), torch.tensor([end]))
            found.append(_separability(trace, torch.tensor(sequence.roles[:end])))
        attention, keys = (sum(values) / documents for values in zip(*found, strict=True))
        rows.append(
            {
                "model": model,
                "family": family,
                "tokens": tokens,
                "documents": documents,
                "by_attention": round(attention, 4),
                "by_keys": round(keys, 4),
                "machine": made,
            }
        )
    return rows


def _separability(trace: Trace, roles: Tensor) -> tuple[float, float]:
    """How well attention and keys separate needed values from the others in one document."""
    begin = 3 * len(roles) // 4
    early = torch.arange(len(roles)) < begin
    needed = (roles == Role.VALUE) & early
    others = ((roles == Role.OTHER) | (roles == Role.PAST)) & early
    queries = torch.arange(begin, len(roles), _EVERY)
    everything = torch.ones(1, len(roles), dtype=torch.bool)
    attention, keys = [], []
    for layer in range(MATCH_LAYER, len(trace.keys)):
        looks = attention_from(queries, trace.rotated_queries[layer], trace.rotated_keys[layer])[0]
        distinct = -key_similarity(trace.keys[layer], everything)[0]
        attention += [area_under_curve(head[needed], head[others]) for head in looks]
        keys += [area_under_curve(head[needed], head[others]) for head in distinct]
    return sum(attention) / len(attention), sum(keys) / len(keys)


def area_under_curve(higher: Tensor, lower: Tensor) -> float:
    """The probability that a value of `higher` exceeds one of `lower`; ties count as half."""
    lower = lower.sort().values
    below = torch.searchsorted(lower, higher) + torch.searchsorted(lower, higher, right=True)
    return float(below.double().mean() / 2 / len(lower))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
