"""Policies by name."""

from dataclasses import replace

from namm_runtime.errors import Refusal
from namm_runtime.policies.base import Policy
from namm_runtime.scorer.checkpoint import Scorer
from namm_runtime.scorer.regime import MODES

# Policy → bundled scorer. `namm-key-zeroed` is a control: the same scorer with the spectrum zeroed.
LEARNED = {
    "namm-key": "namm-key",
    "namm": "namm",
    "namm-layer": "namm-layer",
    "namm-zero": "namm-zero",
    "bam-key": "bam-key",
    "namm-key-zeroed": "namm-key",
}


# Names in requests of earlier versions → today's names.
FORMER = {"window": "streaming"}


def names() -> list[str]:
    """All policies that a request may name."""
    return [*LEARNED, "keydiff", "keydiff-token", "h2o", "snapkv", "l2", "streaming", "prompts", "full"]


def canonical(name: str) -> str:
    """The current name of a policy."""
    return FORMER.get(name, name)


def scorer_of(name: str) -> str | None:
    """The bundled scorer of a learned policy, None for a heuristic."""
    return LEARNED.get(name)


def make(name: str, budget: int | None, scorer: Scorer | None = None, mode: str = "budget") -> Policy:
    """Build a policy.

    Raises:
        Refusal: `unknown_policy`; `scorer_required` for learned policies; `regime_mismatch` for a mode that
            the policy or its scorer does not support.
    """
    from namm_runtime.policies.full import Full
    from namm_runtime.policies.h2o import H2O
    from namm_runtime.policies.keydiff import KeyDiff
    from namm_runtime.policies.keydiff_token import KeyDiffToken
    from namm_runtime.policies.l2 import L2
    from namm_runtime.policies.namm import Namm
    from namm_runtime.policies.prompts import Prompts
    from namm_runtime.policies.snapkv import SnapKV
    from namm_runtime.policies.streaming import Streaming

    name = canonical(name)
    if mode not in MODES or (mode == "parity" and name not in LEARNED):
        raise Refusal("regime_mismatch", f"the policy '{name}' has no mode '{mode}'; use 'budget'")
    match name:
        case "full":
            return Full()
        case "streaming":
            return Streaming()
        case "h2o":
            return H2O(recent=(budget or 0) // 2)
        case "keydiff":
            return KeyDiff()
        case "keydiff-token":
            return KeyDiffToken()
        case "snapkv":
            return SnapKV()
        case "l2":
            return L2()
        case "prompts":
            return Prompts()
        case _ if name in LEARNED:
            if scorer is None:
                raise Refusal("scorer_required", f"the policy '{name}' needs a scorer checkpoint")
            if name == "namm-key-zeroed":
                scorer = replace(scorer, config=replace(scorer.config, spectrum_zeroed=True))
            policy = Namm(scorer, mode=mode)
            policy.name = name
            return policy
    raise Refusal("unknown_policy", f"unknown policy '{name}'; choose one of {', '.join(names())}")
