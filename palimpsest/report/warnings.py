"""What the warnings of results mean, for reports; a result has a sentence of its own about its document."""

from collections.abc import Mapping, Sequence

MEANINGS: Mapping[str, str] = {
    "slots_piled_up": "Most of the slots kept of a long document lie in one fifth of it.",
    "scorer_not_measured": "The scorer was neither fitted nor measured on the model that it served.",
    "reread_not_possible": "Answers are at risk, but no more slots fit in the model's window.",
    "guided_by_other_prompts": "A memory was asked something else than the prompts it had been read for.",
}


def sentences(found: Sequence[tuple[str, int]]) -> list[str]:
    """A sentence for each warning and its number of jobs."""
    return [
        f"{jobs:,} job{'' if jobs == 1 else 's'} with the warning {code}. {MEANINGS.get(code, '')}".rstrip()
        for code, jobs in found
    ]
