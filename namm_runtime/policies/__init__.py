"""Eviction policies by name: one file a policy, one contract (`base.Policy`)."""

from namm_runtime.policies.base import Policy, make, names

__all__ = ["Policy", "make", "names"]
