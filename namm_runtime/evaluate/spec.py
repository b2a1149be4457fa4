"""A policy as it is named on the command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from namm_runtime import policies
from namm_runtime.errors import Refusal
from namm_runtime.scorer import checkpoint


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
