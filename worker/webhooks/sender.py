"""Sends one message to one webhook: signed as Standard Webhooks defines, through the SSRF guard, once."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache

import httpcore
from standardwebhooks import Webhook

from store.settings import Settings
from store.webhooks import egress, secret
from store.webhooks.deliveries import AttemptResult, Due
from worker.webhooks.ssrf_guard import AddressRefused, Deadline, Resolve, SsrfGuard, system_resolver

TIMEOUT_SECONDS = 15.0  # for the whole exchange, from the DNS lookup to the last byte of the answer
READ_BYTES = 4096  # of an answer; the rest is ignored
SHOWN_CHARACTERS = 300  # of an error's answer, in the delivery's log


@cache
def _tls() -> ssl.SSLContext:
    return httpcore.default_ssl_context()  # loading the certificates takes tens of milliseconds


class Sender:
    """Sends messages. It keeps no connections, so the host of each message is looked up and checked anew."""

    def __init__(
        self, config: Settings, *, timeout: float = TIMEOUT_SECONDS, resolve: Resolve = system_resolver
    ) -> None:
        self._pepper = config.pepper
        self._allow_loopback = config.webhook_allow_loopback
        self._timeout = timeout
        self._resolve = resolve

    def send(self, due: Due) -> AttemptResult:
        """The outcome of one attempt. Nothing that a receiver does raises."""
        began = time.monotonic()
        status: int | None = None
        retry_after: float | None = None
        try:
            status, headers, answer = self._post(due)
            error = None if 200 <= status < 300 else _sentence(status, answer)
            retry_after = _retry_after(headers)
        except (egress.UrlRefused, AddressRefused) as refused:
            error = str(refused)
        except httpcore.TimeoutException:
            error = f"No complete answer within {self._timeout:g} s."
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as failed:
            error = f"The request failed: {str(failed) or type(failed).__name__}."
        return AttemptResult(status, error, round((time.monotonic() - began) * 1000), retry_after)

    def _post(self, due: Due) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        target = egress.vet_url(due.url, allow_loopback=self._allow_loopback)
        guard = SsrfGuard(
            Deadline(self._timeout),
            allow_loopback=self._allow_loopback,
            loopback_only=target.loopback_only,
            resolve=self._resolve,
        )
        body = json.dumps(due.payload, separators=(",", ":"))
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path.encode()
        )
        headers = {"Host": target.authority, "Content-Type": "application/json", "User-Agent": "palimpsest"}
        headers |= self._signed(due, body)
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        # httpcore follows no redirects and uses no proxies from the environment.
        with (
            httpcore.ConnectionPool(ssl_context=_tls(), network_backend=guard, max_connections=1) as pool,
            pool.stream("POST", url, headers=encoded, content=body.encode()) as response,
        ):
            return response.status, response.headers, _beginning(response.iter_stream())

    def _signed(self, due: Due, body: str) -> dict[str, str]:
        now = datetime.now(UTC)
        secrets = [secret(self._pepper, due.webhook_id, generation) for generation in due.generations]
        return {
            "webhook-id": due.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(Webhook(one).sign(due.message_id, now, body) for one in secrets),
        }


def _beginning(pieces: Iterable[bytes]) -> bytes:
    answer = b""
    for piece in pieces:
        answer += piece
        if len(answer) >= READ_BYTES:
            break
    return answer[:READ_BYTES]


def _sentence(status: int, answer: bytes) -> str:
    """Describes an unsuccessful answer, in a form that Postgres can store."""
    if 300 <= status < 400:
        return (
            f"It answered {status}. Redirects are not followed; use the final address as the webhook's URL."
        )
    shown = answer.decode(errors="replace").replace("\0", "\ufffd")[:SHOWN_CHARACTERS].strip()
    return f"It answered {status}" + (f": {shown}" if shown else ".")


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Seconds; None without a valid Retry-After header."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            text = value.decode("latin-1").strip()
            if text.isascii() and text.isdigit():
                return float(text[:9])
            try:
                return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
            except (ValueError, TypeError, OverflowError):  # not a date, without a time zone, or out of range
                return None
    return None
