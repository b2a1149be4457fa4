"""Which policy a job gets, and why: the one it names, the operator's, or the default of its model."""

from __future__ import annotations

from dataclasses import dataclass

from store.settings import Settings
from store.workers import ModelCard

SCORED = ("namm", "bam")  # prefixes of the policies that score tokens with a checkpoint; others use no scorer
FALLBACK = "namm-key"  # where nothing is known of the model, and for a scorer without a policy

NAMED = "The request names it."
SET = "PALIMPSEST_DEFAULT_POLICY names it."
FOR_THE_SCORER = "The request names a scorer, which this policy uses."
UNKNOWN_YET = "No worker had loaded the model yet, so its own default was not known."


@dataclass(frozen=True)
class Choice:
    """A policy and the reason for it, a sentence.

    Attributes:
        pending: the worker that claims the job replaces it by its model's default.
    """

    policy: str
    reason: str
    pending: bool = False


def choose(settings: Settings, card: ModelCard, policy: str | None, scorer: str | None) -> Choice:
    """The policy of a request that names this policy and this scorer, or neither."""
    if policy is not None:
        return Choice(policy, NAMED)
    usual = default(settings, card)
    if scorer is None or settings.default_policy is not None:
        return usual
    if uses_scorer(usual.policy) and not usual.pending:
        return usual
    return Choice(FALLBACK, FOR_THE_SCORER)


def default(settings: Settings, card: ModelCard) -> Choice:
    """The policy of requests that name neither a policy nor a scorer."""
    if settings.default_policy is not None:
        return Choice(settings.default_policy, SET)
    if card.default_policy is not None:
        return Choice(card.default_policy, card.default_policy_reason or "")
    return Choice(FALLBACK, UNKNOWN_YET, pending=True)


def uses_scorer(policy: str) -> bool:
    """Whether a policy scores tokens with a checkpoint."""
    return policy.startswith(SCORED)
