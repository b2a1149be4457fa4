"""The REST API from Python, as the command line and the demo use it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from palimpsest_client.bulk import BulkCalls
from palimpsest_client.fields import drop_none

CHUNK = 1024 * 1024


class ApiError(RuntimeError):
    """An error response of the API: its `code`, HTTP `status` and complete `body`."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(body.get("detail") or f"HTTP {status}")
        self.status = status
        self.code: str = body.get("code", f"http_{status}")
        self.body = body


class Client(BulkCalls):
    """A client for one service and one API key.

    Methods raise ApiError, and httpx.TransportError if the service does not respond.
    """

    def __init__(self, base_url: str, api_key: str, transport: httpx.BaseTransport | None = None) -> None:
        # A local service must not be reached through a proxy from the environment.
        local = httpx.URL(base_url).host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(
            base_url=base_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(30.0, write=None),
            trust_env=not local,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def upload(self, path: Path, name: str | None = None) -> dict[str, Any]:
        """Upload a file, streamed."""
        media_type = "text/markdown" if path.suffix.lower() in (".md", ".markdown") else "text/plain"
        headers = {"content-type": media_type, "content-length": str(path.stat().st_size)}
        return self._ask(
            "POST",
            "/v1/documents",
            content=_pieces(path),
            headers=headers,
            params={"name": name or path.name},
        )

    def submit(self, *, idempotency_key: str | None = None, **job: Any) -> dict[str, Any]:
        """Submit a job with the fields of POST /v1/jobs; fields that are None are omitted."""
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        return self._ask("POST", "/v1/jobs", json=drop_none(job), headers=headers)

    def job(self, job_id: str) -> dict[str, Any]:
        """A job and its progress."""
        return self._ask("GET", f"/v1/jobs/{job_id}")

    def jobs(self, **filters: Any) -> dict[str, Any]:
        """A page of jobs; the filters are those of GET /v1/jobs."""
        return self._ask("GET", "/v1/jobs", params=drop_none(filters))

    def result(self, job_id: str) -> dict[str, Any]:
        """The answers. Raises ApiError result_not_ready or no_result."""
        return self._ask("GET", f"/v1/jobs/{job_id}/result")

    def cost(self, job_id: str) -> dict[str, Any]:
        """The cost and savings of a job."""
        return self._ask("GET", f"/v1/jobs/{job_id}/cost")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        return self._ask("POST", f"/v1/jobs/{job_id}/cancel")

    def models(self) -> dict[str, Any]:
        """The models that a job can use."""
        return self._ask("GET", "/v1/models")

    def budgets(self) -> dict[str, Any]:
        """The budgets and what is spent of them."""
        return self._ask("GET", "/v1/budgets")

    def create_budget(self, **budget: Any) -> dict[str, Any]:
        """Create a budget with the fields of POST /v1/budgets; fields that are None are omitted."""
        return self._ask("POST", "/v1/budgets", json=drop_none(budget))

    def delete_budget(self, budget_id: str) -> None:
        """Delete a budget. Raises ApiError not_found."""
        self._ask("DELETE", f"/v1/budgets/{budget_id}")

    def webhooks(self) -> dict[str, Any]:
        """The webhooks, newest first."""
        return self._ask("GET", "/v1/webhooks")

    def create_webhook(self, url: str, events: Sequence[str] = (), description: str = "") -> dict[str, Any]:
        """Create a webhook; the answer includes its `secret`. Raises ApiError webhook_url_refused."""
        body = {"url": url, "events": list(events), "description": description}
        return self._ask("POST", "/v1/webhooks", json=body)

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook and its log. Raises ApiError not_found."""
        self._ask("DELETE", f"/v1/webhooks/{webhook_id}")

    def rotate_webhook(self, webhook_id: str) -> dict[str, Any]:
        """The webhook with its new `secret`."""
        return self._ask("POST", f"/v1/webhooks/{webhook_id}/rotate")

    def enable_webhook(self, webhook_id: str) -> dict[str, Any]:
        """Enable a disabled webhook."""
        return self._ask("POST", f"/v1/webhooks/{webhook_id}/enable")

    def test_webhook(self, webhook_id: str) -> dict[str, Any]:
        """Send `webhook.test` and return the delivery. Raises ApiError webhook_disabled."""
        return self._ask("POST", f"/v1/webhooks/{webhook_id}/test")

    def webhook_deliveries(self, webhook_id: str, **filters: Any) -> dict[str, Any]:
        """A page of a webhook's deliveries, newest first."""
        return self._ask("GET", f"/v1/webhooks/{webhook_id}/deliveries", params=drop_none(filters))

    def redeliver(self, webhook_id: str, delivery_id: str) -> dict[str, Any]:
        """Send a message again. Raises ApiError webhook_disabled."""
        return self._ask("POST", f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")

    def scorers(self) -> dict[str, Any]:
        """All scorers in the registry and their versions."""
        return self._all("/v1/scorers")

    def scorer(self, name: str, version: str) -> dict[str, Any]:
        """A version of a scorer. Raises ApiError not_found."""
        return self._ask("GET", _path(name, "versions", version))

    def push_scorer(self, name: str, files: Mapping[str, Path], version: str | None = None) -> dict[str, Any]:
        """Upload a version, streamed: parts `scorer` and `manifest`, or `checkpoint`."""
        with ExitStack() as stack:
            parts = {
                part: (path.name, stack.enter_context(path.open("rb")), "application/octet-stream")
                for part, path in files.items()
            }
            fields = {} if version is None else {"version": version}
            return self._ask("POST", _path(name, "versions"), files=parts, data=fields)

    def attach_evaluation(self, name: str, version: str, report: Any) -> dict[str, Any]:
        """Attach a report of `namm evaluate` to a version."""
        return self._ask("PUT", _path(name, "versions", version, "evaluation"), json=report)

    def activate_scorer(self, name: str, **activation: Any) -> dict[str, Any]:
        """Activate a version for a scope; fields that are None are omitted."""
        return self._ask("POST", _path(name, "activations"), json=drop_none(activation))

    def end_activation(self, name: str, scope: str, alias: str, reason: str | None = None) -> dict[str, Any]:
        """End the activation of a scope and alias. Raises ApiError not_found."""
        path = _path(name, "activations", scope, alias)
        return self._ask("DELETE", path, params=drop_none({"reason": reason}))

    def rollback_scorer(self, name: str, scope: str, reason: str) -> dict[str, Any]:
        """Return to the version that served a scope before. Raises ApiError no_earlier_version."""
        return self._ask("POST", _path(name, "rollback"), json={"scope": scope, "reason": reason})

    def scorer_outcomes(self, name: str, start_time: str, versions: Sequence[str] = ()) -> dict[str, Any]:
        """The outcomes of a scorer's versions since a time."""
        asked: dict[str, Any] = {"start_time": start_time, "version": list(versions)}
        return self._ask("GET", _path(name, "outcomes"), params=asked)

    def rollout(self) -> dict[str, Any]:
        """The active versions and the workers that have loaded them."""
        return self._ask("GET", "/v1/rollout")

    def audit(self, **filters: Any) -> dict[str, Any]:
        """A page of the audit log, newest first."""
        return self._ask("GET", "/v1/audit", params=drop_none(filters))

    def schedules(self, **filters: Any) -> dict[str, Any]:
        """A page of schedules, newest first."""
        return self._ask("GET", "/v1/schedules", params=drop_none(filters))

    def schedule(self, schedule_id: str) -> dict[str, Any]:
        """A schedule and its next run."""
        return self._ask("GET", f"/v1/schedules/{schedule_id}")

    def create_schedule(self, *, dry_run: bool = False, **schedule: Any) -> dict[str, Any]:
        """Create a schedule with the fields of POST /v1/schedules; fields that are None are omitted."""
        return self._ask("POST", "/v1/schedules", json=drop_none(schedule), params={"dry_run": dry_run})

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule."""
        self._ask("DELETE", f"/v1/schedules/{schedule_id}")

    def pause_schedule(self, schedule_id: str) -> dict[str, Any]:
        """Pause a schedule until it is resumed."""
        return self._ask("POST", f"/v1/schedules/{schedule_id}/pause")

    def resume_schedule(self, schedule_id: str) -> dict[str, Any]:
        """Resume a paused schedule at its next time."""
        return self._ask("POST", f"/v1/schedules/{schedule_id}/resume")

    def run_schedule(self, schedule_id: str) -> dict[str, Any]:
        """Start a run now; returns the run, which the scheduler begins."""
        return self._ask("POST", f"/v1/schedules/{schedule_id}/run")

    def schedule_preview(self, schedule_id: str, count: int) -> dict[str, Any]:
        """The next times of a schedule."""
        return self._ask("GET", f"/v1/schedules/{schedule_id}/preview", params={"count": count})

    def schedule_runs(self, schedule_id: str, **filters: Any) -> dict[str, Any]:
        """A page of a schedule's runs, latest first."""
        return self._ask("GET", f"/v1/schedules/{schedule_id}/runs", params=drop_none(filters))

    def ready(self) -> dict[str, Any]:
        """The readiness checks; `ready` is true if all of them pass."""
        response = self._http.get("/readyz")
        found: dict[str, Any] = response.json()
        return found

    def _all(self, path: str) -> dict[str, Any]:
        """All pages of a list as one: the last page with the rows of all."""
        page = self._ask("GET", path)
        rows = list(page.get("data", []))
        while cursor := page.get("next_cursor"):
            page = self._ask("GET", path, params={"cursor": cursor})
            rows += page.get("data", [])
        return {**page, "data": rows}

    def _save(self, path: str, target: Path) -> None:
        part = target.with_name(f"{target.name}.partial")
        with self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
                raise ApiError(response.status_code, _body(response))
            with part.open("wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)
        part.replace(target)

    def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = self._http.request(method, path, **arguments)
        if response.status_code == 204:
            return {}
        body = _body(response)
        if response.is_error:
            raise ApiError(response.status_code, body)
        return body


def _body(response: httpx.Response) -> dict[str, Any]:
    """The JSON body. Raises ApiError if it is not JSON."""
    try:
        found: dict[str, Any] = response.json()
    except ValueError:
        detail = f"{response.url} answered {response.status_code} with a body that is not JSON."
        raise ApiError(response.status_code, {"detail": detail}) from None
    return found


def _path(name: str, *parts: str) -> str:
    """A path below a scorer's."""
    return "/v1/scorers/" + "/".join(quote(part, safe=":") for part in (name, *parts))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece
