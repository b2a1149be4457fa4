"""A made-up service for the demo: answers by what it is told, and remembers what was submitted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[[dict[str, Any], str], str]  # a submitted job and a question → the answer


class DemoService:
    """Stands where the demo uses a Client. Documents have 6,300 tokens."""

    TOKENS = 6300

    def __init__(self, say: Say = lambda job, question: "?", state: str = "succeeded") -> None:
        self.say, self.state = say, state
        self.submitted: list[dict[str, Any]] = []
        self.uploaded: list[str] = []

    def __enter__(self) -> "DemoService":
        return self

    def __exit__(self, *_: object) -> None: ...

    def upload(self, path: Path) -> dict[str, Any]:
        self.uploaded.append(path.name)
        return {"id": f"doc_{len(self.uploaded)}"}

    def submit(self, **fields: Any) -> dict[str, Any]:
        self.submitted.append({name: value for name, value in fields.items() if value is not None})
        return self.job(f"job_{len(self.submitted) - 1}")

    def job(self, job_id: str) -> dict[str, Any]:
        asked = self.submitted[int(job_id.removeprefix("job_"))]
        error = None if self.state == "succeeded" else {"code": "broken", "message": "It [broke]."}
        defaults = {"policy": "namm-key", "cache_budget": None, "model": "tiny", "scorer": None}
        return {"id": job_id, "state": self.state, "error": error, **defaults, **asked}

    def result(self, job_id: str) -> dict[str, Any]:
        job = self.job(job_id)
        kept = job["cache_budget"] or self.TOKENS
        answers = [
            {"prompt": prompt, "text": self.say(job, prompt), "points": None}
            | ({"evicted_attention": 0.25} if job.get("reading") == "guided" else {})
            for prompt in job.get("questions", ["Summarize."])
        ]
        usage = {
            "seconds": {"read": 20.0, "score": 1.0},
            "tokens_document": self.TOKENS,
            "tokens_read": self.TOKENS,
            "tokens_kept": float(kept),
            "kept_bytes": kept * 23040,
        }
        return {"answers": answers, "usage": usage}

    def cost(self, job_id: str) -> dict[str, Any]:
        return {
            "lines": [],
            "summary": [
                {"name": "kv_bytes.peak", "quantity": "1048576", "unit": "byte", "measurement": "derived"}
            ],
            "currency": "EUR",
            "setting": None,
            "price_per_device_hour": "1.00",
        }
