"""Reports asked for over HTTP, and bills to report on."""

from datetime import UTC, datetime
from typing import Any

import httpx

DAY = datetime(2026, 3, 1, tzinfo=UTC)


INTERVAL = {"start_time": "2026-03-01T00:00:00Z", "end_time": "2026-03-11T00:00:00Z"}


FORMULA = '=HYPERLINK("http://evil.example")'


def ask(client: httpx.Client, path: str, accept: str = "application/json", **params: Any) -> httpx.Response:
    response = client.get(path, params={**INTERVAL, **params}, headers={"accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].partition(";")[0] == accept
    return response
