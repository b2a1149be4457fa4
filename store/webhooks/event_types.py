"""The types of events that webhooks receive; docs/how-to/receive-webhooks.md describes each."""

from __future__ import annotations

from collections.abc import Sequence

TEST = "webhook.test"  # sent only to the webhook being tested

TYPES = frozenset(
    {
        "job.succeeded",
        "job.failed",
        "job.expired",
        "job.cancelled",
        "bulk.succeeded",
        "bulk.failed",
        "bulk.cancelled",
        "budget.crossed",
        "schedule.paused",
        "schedule_run.succeeded",
        "schedule_run.failed",
        "schedule_run.cancelled",
        "schedule_run.skipped",
        "schedule_run.missed",
        "scorer.load_failed",
        "scorer.rolled_back",
        "scorer.canary_ended",
        "scorer.bound_crossed",
    }
)
FAMILIES = frozenset(name.split(".")[0] + ".*" for name in TYPES)


def wanted(event: str, chosen: Sequence[str]) -> bool:
    """Whether a webhook that chose these types or families receives an event; no choice means all."""
    return not chosen or event in chosen or event.split(".")[0] + ".*" in chosen
