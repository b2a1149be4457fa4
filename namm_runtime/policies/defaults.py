"""The default policy of a model, and why. The evidence is in docs/reference/benchmarks.md."""

from namm_runtime.bundled import MODELS
from namm_runtime.policies.registry import LEARNED
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.models import Model, knows

# Best first, for models that one of their scorers was fitted to or measured on.
_MEASURED = ("namm-key",)


def default_for(model: Model) -> tuple[str, str]:
    """The policy of requests that name none, and the reason in a sentence."""
    for policy in _MEASURED:
        if knows(checkpoint.load(checkpoint.resolve(LEARNED[policy]).path), model):
            where = "bundled model" if model.name in MODELS else f"model '{model.name}'"
            return policy, f"Its scorer was fitted to the {where} or measured on it."
    return "keydiff", (
        f"No bundled scorer was fitted to the model '{model.name}' or measured on it. Among the policies "
        "without a scorer, KeyDiff kept the most facts under a real Llama."
    )
