"""When a worker takes its model for replaced."""

import pytest

from worker.engine import model_files
from worker.engine.process import WorkerProcess


def test_a_download_by_the_loading_itself_is_no_replacement(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.config = process.config.model_copy(update={"model": "org/some-model"})
    found: list[tuple[str, ...]] = [()]
    monkeypatch.setattr(model_files, "files_of", lambda config: found[-1])
    process.serve()
    found.append(("snapshots/one/config.json",))
    assert not process.model_replaced()
    found.append(())
    assert not process.model_replaced(), "gone for a moment"
    found.append(("snapshots/two/config.json",))
    assert process.model_replaced()
    process.serve()
    assert not process.model_replaced()
