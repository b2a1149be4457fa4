"""What the command line tells while a job waits."""

from typing import Any

import pytest

from palimpsest.commands.jobs import follow, print_settings, show_result
from palimpsest.machine.data_directory import LocalError

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


def test_what_a_document_was_read_with_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_settings(None)
    print_settings({"positions": None})
    assert capsys.readouterr().out == ""
    setting = {"mode": "budget", "budget": 512, "interval": 512, "positions": "cache-relative"}
    print_settings(setting | {"regime": "The scorer was evolved with 16 slots a head; served with 512."})
    told = capsys.readouterr().out
    assert "512 slots per head, an eviction every 512 tokens, cache-relative positions" in told
    assert "evolved with 16 slots" in told
    print_settings({"mode": "budget", "budget": None, "interval": None, "positions": "absolute"})
    assert "no slot limit, no evictions, absolute positions" in capsys.readouterr().out


def test_an_answer_that_repeated_itself_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        {"prompt": "Total?", "text": "994", "finish_reason": "repetition"},
        {"prompt": "When?", "text": "In May.", "finish_reason": "stop"},
        {"prompt": "Who?", "text": "Ann", "finish_reason": None},
    ]
    show_result({"complete": True, "answers": answers, "usage": None})
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "Total?",
        "  994",
        "  (stopped: the answer repeated itself)",
        "When?",
        "  In May.",
        "Who?",
        "  Ann",
    ]


def test_a_guided_and_repeated_reading_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    setting = {"mode": "budget", "cache_budget": 512, "interval": 512, "positions": "absolute"}
    print_settings(setting | {"reading": "open", "rereads": 0})
    assert "guided" not in capsys.readouterr().out
    print_settings(setting | {"reading": "guided", "rereads": 1})
    told = capsys.readouterr().out
    assert "Read guided by the prompts: 512 slots per head" in told
    assert "It was read again once, with a larger cache" in told


RESULT = {
    "complete": True,
    "answers": [
        {
            "prompt": "When?",
            "text": "Never.",
            "finish_reason": "stop",
            "at_risk": True,
            "evicted_attention": 0.412,
        },
        {
            "prompt": "Who?",
            "text": "Jack.",
            "finish_reason": "stop",
            "at_risk": False,
            "evicted_attention": 0.03,
        },
    ],
    "policy": "keydiff",
    "policy_reason": "The tables show it best.",
    "rereads": 0,
    "warnings": [{"code": "slots_piled_up", "message": "Most slots lie in one fifth."}],
    "usage": {"positions": None, "no_saving": "No saving: the document fits in the cache."},
}


def test_answers_at_risk_warnings_and_the_policy_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(RESULT)
    told = capsys.readouterr().out
    assert told.count("was evicted") == 1
    assert (
        "Never.\n  Much of what this question attends to was evicted: 41%. The answer may be wrong. "
        "Consider a larger --cache-budget or --on-risk reread.\n"
    ) in told
    assert "Policy keydiff: The tables show it best." in told
    assert "Warning slots_piled_up: Most slots lie in one fifth." in told
    assert "No saving: the document fits in the cache." in told
    show_result(RESULT | {"rereads": 1})
    assert "Consider a larger --cache-budget.\n" in capsys.readouterr().out


def test_a_result_of_an_older_service_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"prompt": "Who?", "text": "Jack.", "finish_reason": "stop"}
    show_result({"complete": True, "answers": [answer], "usage": None})
    assert capsys.readouterr().out == "Who?\n  Jack.\n"
