"""One unit of work: a document under one policy, budget and reading, with every question answered."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import namm_runtime
from namm_runtime.engine import Engine, Request
from namm_runtime.engine.forced import predict_answer, predict_text
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal
from namm_runtime.evaluate.spec import PolicySpec
from namm_runtime.model.loading import LoadedModel
from namm_runtime.tasks.item import Forced

__all__ = ["PolicySpec", "Probe", "Unit", "code_hash"]

# Folders that answers and measurements do not depend on, left out of the hash of the code.
_NOT_CODE = ("evaluate", "memory_map", "evolve", "tasks", "bundled", "training")


@dataclass(frozen=True)
class Probe:
    """A forced answer to measure.

    Attributes:
        asked: index of its prompt among the unit's prompts; None if its prompt is not among them.
    """

    prompt: str
    forced: Forced
    asked: int | None


@dataclass(frozen=True)
class Unit:
    """A document to read and prompts to answer.

    Attributes:
        slots: per head; None for the full cache.
        document: file with its text.
        reading: `guided` by the prompts or `open`.
        apart: read the document once for each prompt, guided by that one alone.
        generate: whether to generate answers beside the forced ones.
        probes: forced answers to measure once the document is read.
        following: text that goes on after the document, to measure the loss on it.
    """

    spec: PolicySpec
    slots: int | None
    document: Path
    prompts: tuple[str, ...]
    interval: int
    positions: str
    max_output_tokens: int
    reading: str = "open"
    apart: bool = False
    generate: bool = True
    probes: tuple[Probe, ...] = ()
    following: str = ""

    def key(self, model: LoadedModel, document: str) -> str:
        """Hash of everything the outcome depends on; `document` is the hash of the text."""
        parts = {
            "model": [model.revision, str(model.model.dtype), model.device.type, model.tokenizer_sha256],
            "policy": self.spec.identity(),
            "settings": [self.slots, self.interval, self.positions, self.max_output_tokens],
            "reading": [self.reading, self.apart, self.generate],
            "document": document,
            "prompts": self.prompts,
            "forced": [[asdict(probe) for probe in self.probes], self.following],
            "code": code_hash(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def work(self, model: LoadedModel) -> dict[str, Any]:
        """Answers, forced answers and usage, or the reason why the request was refused."""
        outcome: dict[str, Any] = {
            "answers": [],
            "evicted_attention": [],
            "forced": [None] * len(self.probes),
        }
        parts = [(prompt,) for prompt in self.prompts] if self.apart and self.prompts else [self.prompts]
        try:
            for number, prompts in enumerate(parts):
                run = Engine(model).complete(self._request(prompts))
                outcome["answers"] += [answer.text if self.generate else None for answer in run.answers]
                outcome["evicted_attention"] += [
                    getattr(answer, "evicted_attention", None) for answer in run.answers
                ]
                if number == 0:
                    outcome["usage"] = run.usage.to_dict()
                if run.memory is not None:
                    self._measure(run.memory, number, outcome)
        except Refusal as refusal:
            return {"refused": {"code": refusal.code, "message": refusal.message}}
        return outcome

    def _request(self, prompts: tuple[str, ...]) -> Request:
        # Without evictions a token's slot is its position in the text.
        positions = (
            "auto" if self.spec.policy == "full" and self.positions == "cache-relative" else self.positions
        )
        return Request(
            document=self.document,
            prompts=prompts,
            policy=self.spec.policy,
            budget=self.slots,
            scorer=self.spec.scorer,
            interval=self.interval,
            # Prompts that guide the reading are answered; one token costs next to nothing.
            max_output_tokens=self.max_output_tokens if self.generate else 1,
            positions=positions,
            reading=self.reading,
        )

    def _measure(self, memory: Memory, number: int, outcome: dict[str, Any]) -> None:
        """Measure the forced answers that belong to reading `number`; those without a prompt to the first."""
        for place, probe in enumerate(self.probes):
            if (probe.asked or 0) == number or not self.apart:
                forced = predict_answer(memory, probe.prompt, probe.forced.lead, probe.forced.gold)
                outcome["forced"][place] = asdict(forced)
        if number == 0 and self.following:
            following = predict_text(memory, self.following)
            outcome["following"] = following and asdict(following)


@cache
def code_hash() -> str:
    """Hash of the runtime's source files, so that results are measured again after a change."""
    root = Path(namm_runtime.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] not in _NOT_CODE:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
