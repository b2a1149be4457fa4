"""Eviction policies by name: one file per policy, one interface (`base.Policy`)."""

from namm_runtime.policies.base import Policy
from namm_runtime.policies.defaults import default_for
from namm_runtime.policies.registry import FORMER, canonical, make, names, scorer_of

__all__ = ["FORMER", "Policy", "canonical", "default_for", "make", "names", "scorer_of"]
