"""What the command line tells while a job waits."""

from typing import Any

import pytest

from palimpsest.local import LocalError
from palimpsest.remote import follow

QUEUED = {"id": "job_1", "state": "queued", "model": "mine", "progress": None}


class FakeClient:
    """A service whose job stays queued for `looks` looks and then has succeeded."""

    def __init__(self, errors: list[str], loaded: bool, workers: int, looks: int = 2) -> None:
        self.card = {"name": "mine", "errors": errors, "loaded": loaded, "workers_live": workers}
        self.looks = looks

    def job(self, job_id: str) -> dict[str, Any]:
        self.looks -= 1
        return QUEUED | {"state": "queued" if self.looks >= 0 else "succeeded"}

    def models(self) -> dict[str, Any]:
        return {"data": [self.card]}


def test_a_model_that_no_worker_can_load_is_told() -> None:
    client = FakeClient(["cannot load a model from '/typo'."], loaded=False, workers=1)
    with pytest.raises(LocalError, match=r"cannot load a model from .*job_1 stays queued"):
        follow(client, "job_1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("errors", "loaded", "workers"),
    [([], False, 1), (["one of two"], True, 2), (["the other one is loading"], False, 2)],
)
def test_a_job_that_will_be_taken_is_waited_for(errors: list[str], loaded: bool, workers: int) -> None:
    client = FakeClient(errors, loaded, workers)
    assert follow(client, "job_1")["state"] == "succeeded"  # type: ignore[arg-type]
