"""Ids sort by the time they were made."""

import pytest

from store import ids


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [10**18 + step * 10**6 for step in range(50)]
    made = []
    for moment in moments:
        monkeypatch.setattr(ids.time, "time_ns", lambda moment=moment: moment)
        made.append(ids.new_id("job"))
    assert made == sorted(made)
    assert {len(name) for name in made} == {len("job_") + 26}
