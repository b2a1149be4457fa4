"""One document under one policy and budget: read once, every question asked on a fork of what was kept."""

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

# What answers and figures can depend on: everything of the runtime but what marks them.
_NOT_CODE = ("evaluate", "memory_map", "evolve", "tasks", "bundled", "training")


@dataclass(frozen=True)
class PolicySpec:
    """A policy as it was asked for: `h2o`, or `mine=DIR` for a scorer of one's own.

    Attributes:
        label: what tables call it.
        scorer: directory of the scorer's checkpoint, None for a heuristic.
    """

    label: str
    policy: str
    scorer: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "PolicySpec":
        """Raises Refusal `unknown_policy`, and `scorer_…` for a scorer that cannot be used."""
        label, given, directory = text.strip().partition("=")
        if given:
            checkpoint.load(Path(directory))
            return cls(label, "namm", Path(directory))
        policy = policies.canonical(label)
        if policy not in policies.names():
            known = ", ".join(policies.names())
            raise Refusal("unknown_policy", f"there is no policy '{label}'; choose one of {known}")
        bundled = policies.scorer_of(policy)
        return cls(policy, policy, checkpoint.resolve(bundled).path if bundled else None)

    @property
    def learned(self) -> bool:
        return self.scorer is not None

    def identity(self) -> dict[str, Any]:
        """What tells this policy from another of the same name."""
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
    """Attributes: slots: of a head, None for the full cache; document: its text as a file."""

    spec: PolicySpec
    slots: int | None
    document: Path
    prompts: tuple[str, ...]
    interval: int
    positions: str
    max_output_tokens: int

    def key(self, model: LoadedModel, document: str) -> str:
        """Hash of all that the outcome depends on; `document` is the text's own hash."""
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
        """Answers and usage, or why the request was refused."""
        # Where nothing is ever evicted a token's slot is its place in the text.
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
    """Of the runtime's sources, so that a changed policy is measured anew."""
    root = Path(namm_runtime.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] not in _NOT_CODE:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
