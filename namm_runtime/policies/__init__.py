"""Eviction policies by name: one file a policy, one contract (`base.Policy`)."""

from namm_runtime.policies.base import Policy, make, names, scorer_of

__all__ = ["Policy", "make", "names", "scorer_of"]
