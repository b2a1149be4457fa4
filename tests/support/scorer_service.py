"""A made-up service, for the commands about scorers."""

import json
from collections.abc import Callable
from typing import Any

import httpx
from click.testing import Result

Answer = dict[str, Any]
ENVIRONMENT = {"PALIMPSEST_URL": "http://service", "PALIMPSEST_API_KEY": "pal_x", "COLUMNS": "200"}
ACTIVATION = {"scorer": "namm@3", "scope": "global", "alias": "canary", "percent": 10, "shadow_percent": 20}
VERSION = {
    "name": "namm",
    "version": "3",
    "state": "active",
    "kind": "safetensors",
    "sha256": "ab" * 32,
    "manifest": {"regime": {"mode": "budget", "budget": 128, "watch_last": None}, "serving": {"budget": 512}},
    "evaluation": {
        "rows": [
            {"scorer": None, "policy": "full", "budget": None, "score": 0.5, "of_full": None},
            {"scorer": "namm@3", "policy": "mine", "budget": "25%", "score": 0.48, "of_full": 0.96},
        ]
    },
    "activations": [{**ACTIVATION, "bounds": {"max_failure_rate": 0.05, "min_agreement": None}}],
    "created_by": "key_1",
    "created_at": "2026-03-01T10:00:00Z",
}


class Service:
    """Answers by method and path; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | int | list[Answer]] = {}
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        answer = self.answers.get(f"{request.method} {request.url.raw_path.decode().partition('?')[0]}")
        if isinstance(answer, list):  # one after the other, the last for ever
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            body = {"code": "not_found", "detail": "There is no scorer namm@9 in the registry."}
            return httpx.Response(404, json=body)
        if isinstance(answer, int):
            return httpx.Response(answer)
        return httpx.Response(answer.get("status", 200), json=answer)

    @property
    def sent(self) -> Answer:
        found: Answer = json.loads(self.asked[-1].content)
        return found


Palimpsest = Callable[..., Result]
