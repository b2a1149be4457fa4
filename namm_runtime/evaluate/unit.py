"""One unit of work: a document under one policy and budget, read once, with every question answered."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import namm_runtime
from namm_runtime import policies
from namm_runtime.engine import Engine, Request
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer import checkpoint

# Folders that answers and measurements do not depend on, left out of the hash of the code.
_NOT_CODE = ("evaluate", "memory_map", "evolve", "tasks", "bundled", "training")


@dataclass(frozen=True)
class PolicySpec:
    """A policy as requested: `h2o`, or `mine=DIR` for the user's own scorer.

    Attributes:
        label: its name in tables.
        scorer: directory of the scorer's checkpoint, None for a heuristic.
    """

    label: str
    policy: str
    scorer: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "PolicySpec":
        """Parse a policy.

        Raises:
            Refusal: `unknown_policy`; `scorer_…` for a scorer that cannot be loaded.
        """
        label, given, directory = text.strip().partition("=")
        if given:
            checkpoint.load(Path(directory))
            return cls(label, "namm", Path(directory))
        policy = policies.canonical(label)
        if policy not in policies.names():
            known = ", ".join(policies.names())
            raise Refusal("unknown_policy", f"unknown policy '{label}'; choose one of {known}")
        bundled = policies.scorer_of(policy)
        return cls(policy, policy, checkpoint.resolve(bundled).path if bundled else None)

    @property
    def learned(self) -> bool:
        return self.scorer is not None

    def identity(self) -> dict[str, Any]:
        """Everything that distinguishes this policy from others, for hashes and reports."""
        if self.scorer is None:
            return {"policy": self.policy}
        scorer = checkpoint.load(self.scorer)
        return {
            "policy": self.policy,
            "scorer": f"{scorer.name}@{scorer.version}",
            "sha256": scorer.sha256,
            "config": asdict(scorer.config),
            "regime": asdict(scorer.regime),
            "serving": asdict(scorer.serving),
        }


@dataclass(frozen=True)
class Unit:
    """A document to read and prompts to answer.

    Attributes:
        slots: per head; None for the full cache.
        document: file with its text.
    """

    spec: PolicySpec
    slots: int | None
    document: Path
    prompts: tuple[str, ...]
    interval: int
    positions: str
    max_output_tokens: int

    def key(self, model: LoadedModel, document: str) -> str:
        """Hash of everything the outcome depends on; `document` is the hash of the text."""
        parts = {
            "model": [model.revision, str(model.model.dtype), model.device.type, model.tokenizer_sha256],
            "policy": self.spec.identity(),
            "settings": [self.slots, self.interval, self.positions, self.max_output_tokens],
            "document": document,
            "prompts": self.prompts,
            "code": code_hash(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def work(self, model: LoadedModel) -> dict[str, Any]:
        """Answers and usage, or the reason why the request was refused."""
        # Without evictions a token's slot is its position in the text.
        positions = (
            "auto" if self.spec.policy == "full" and self.positions == "cache-relative" else self.positions
        )
        request = Request(
            document=self.document,
            prompts=self.prompts,
            policy=self.spec.policy,
            budget=self.slots,
            scorer=self.spec.scorer,
            interval=self.interval,
            max_output_tokens=self.max_output_tokens,
            positions=positions,
        )
        try:
            run = Engine(model).complete(request)
        except Refusal as refusal:
            return {"refused": {"code": refusal.code, "message": refusal.message}}
        return {"answers": [answer.text for answer in run.answers], "usage": run.usage.to_dict()}


@cache
def code_hash() -> str:
    """Hash of the runtime's source files, so that results are measured again after a change."""
    root = Path(namm_runtime.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] not in _NOT_CODE:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
