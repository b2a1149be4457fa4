"""The states of a job and the moves between them. Postgres is the only place that holds a state."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """queued → running → finalizing → succeeded | failed | expired | cancelled; also `cancelling`."""

    QUEUED = "queued"
    RUNNING = "running"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELLED})
LEASED = frozenset({State.RUNNING, State.FINALIZING, State.CANCELLING})  # a worker holds, or held, the job

MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED}),
    # back to queued: the worker was lost, or was told to stop and gave the job back
    State.RUNNING: frozenset({State.FINALIZING, State.CANCELLING, State.QUEUED, State.FAILED, State.EXPIRED}),
    State.FINALIZING: frozenset(
        {State.SUCCEEDED, State.CANCELLING, State.QUEUED, State.FAILED, State.EXPIRED}
    ),
    State.CANCELLING: frozenset({State.CANCELLED, State.FAILED, State.EXPIRED, State.SUCCEEDED}),
    **{state: frozenset() for state in TERMINAL},
}


def sources(target: State) -> tuple[State, ...]:
    """The states that may move to `target`, for the WHERE of an update."""
    return tuple(state for state, targets in MOVES.items() if target in targets)
