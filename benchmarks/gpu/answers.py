"""The bundled model's answers on a GPU compared with those on the CPU, end to end."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from namm_runtime.engine import Engine, Request, Run
from namm_runtime.model.loading import load_model
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.suite import documents

LEAST_SHARE = 0.8  # of equal answers; another order of summation changes some near ties
FAMILIES = ("single", "multi", "kv", "tracking")
QUESTIONS = 12  # of each document
TOKENS, BUDGET, SEED = 8192, 512, 20


def rows(device: torch.device) -> Iterator[dict[str, Any]]:
    """Documents of a few families with a scorer and a heuristic, in the model's own precision and in bf16."""
    here = load_model("bundled")
    asked = {
        text: items[:QUESTIONS]
        for family in FAMILIES
        for text, items in documents(family, "test", TOKENS, 1, SEED, here.tokenizer)
    }
    for policy in ("namm-key", "h2o"):
        expected = _answers(Engine(here), policy, asked)
        for dtype in ("float32", "bfloat16"):
            there = load_model("bundled", device=str(device), dtype=dtype)
            found = _answers(Engine(there), policy, asked)
            same = sum(one == other for one, other in zip(expected, found, strict=True))
            yield {
                "check": "answers",
                "policy": policy,
                "dtype": dtype,
                "questions": len(expected),
                "same": same,
                "right_on_the_cpu": sum(right for _, right in expected),
                "right": sum(right for _, right in found),
                "ok": same >= LEAST_SHARE * len(expected),
            }


def _answers(engine: Engine, policy: str, asked: dict[str, list[Item]]) -> list[tuple[str, bool]]:
    """Every answer in order, and whether it is correct."""
    found = []
    for text, items in asked.items():
        run = _read(engine, policy, text, tuple(item.input for item in items))
        answers = [answer.text.strip() for answer in run.answers]
        found += [(text, text.rstrip(".") in item.answers) for text, item in zip(answers, items, strict=True)]
    return found


def _read(engine: Engine, policy: str, text: str, prompts: tuple[str, ...]) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "document.txt"
        document.write_text(text)
        return engine.complete(Request(document, prompts, policy, BUDGET))
