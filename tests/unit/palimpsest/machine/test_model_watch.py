"""`palimpsest up` says why no worker could load the model, once."""

import threading
from typing import Any

import pytest

from palimpsest.machine import model_watch
from palimpsest.machine.model_watch import ModelWatch


def model(**state: Any) -> dict[str, Any]:
    return {"workers_live": 1, "loaded": False, "errors": [], **state}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a watch over what the API says, one answer a poll; gives what it said."""

    def run(*answers: list[dict[str, Any]]) -> list[str]:
        left, said, over = list(answers), [], threading.Event()

        class FakeClient:
            def __init__(self, url: str, key: str) -> None: ...
            def __enter__(self) -> "FakeClient":
                return self

            def __exit__(self, *_: object) -> None: ...
            def models(self) -> dict[str, Any]:
                if len(left) == 1:
                    over.set()
                return {"data": left.pop(0) if len(left) > 1 else left[0]}

        monkeypatch.setattr(model_watch, "Client", FakeClient)
        monkeypatch.setattr(model_watch, "POLL_SECONDS", 0.001)
        watching = ModelWatch("http://nowhere", "key", said.append)
        watching.start()
        assert over.wait(10)
        watching.stop()
        watching._thread.join(10)
        return said

    return run


def test_an_error_is_said_once(watch: Any) -> None:
    broken = [model(errors=["weights.gguf is incomplete"])]
    assert watch([model()], broken, broken, broken) == [
        "No worker could load the model: weights.gguf is incomplete"
    ]


def test_nothing_is_said_of_a_model_that_loads(watch: Any) -> None:
    assert watch([], [model()], [model(loaded=True)]) == []


def test_errors_of_workers_that_are_gone_are_not_said(watch: Any) -> None:
    assert watch([model(workers_live=0, errors=["old"])], [model(loaded=True)]) == []
