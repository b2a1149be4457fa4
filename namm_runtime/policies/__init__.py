"""Eviction policies by name: one file a policy, one contract (`base.Policy`)."""

from namm_runtime.policies.base import FORMER, Policy, canonical, make, names, scorer_of

__all__ = ["FORMER", "Policy", "canonical", "make", "names", "scorer_of"]
