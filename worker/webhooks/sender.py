"""Sends one message to one webhook: signed by Standard Webhooks, through the guard, once."""

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
from worker.webhooks.ssrf_guard import AddressRefused, Deadline, Guard, Resolve, system_resolver

TIMEOUT_SECONDS = 15.0  # for everything, from looking up the host to the last byte of the answer
READ_BYTES = 4096  # of an answer; no more is looked at
SHOWN_CHARACTERS = 300  # of an answer that is an error, in the delivery's log


@cache
def _tls() -> ssl.SSLContext:
    return httpcore.default_ssl_context()  # reading the certificates takes tens of milliseconds


class Sender:
    """Sends as the settings say. It keeps no connections, so each message looks its host up anew."""

    def __init__(
        self, config: Settings, *, timeout: float = TIMEOUT_SECONDS, resolve: Resolve = system_resolver
    ) -> None:
        self._pepper = config.pepper
        self._allow_loopback = config.webhook_allow_loopback
        self._timeout = timeout
        self._resolve = resolve

    def send(self, due: Due) -> AttemptResult:
        """What came of it; nothing that a receiver does raises."""
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
            error = f"There was no whole answer within {self._timeout:g} s."
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as failed:
            error = f"The exchange failed: {str(failed) or type(failed).__name__}."
        return AttemptResult(status, error, round((time.monotonic() - began) * 1000), retry_after)

    def _post(self, due: Due) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        target = egress.vet_url(due.url, allow_loopback=self._allow_loopback)
        guard = Guard(
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
        # A pool of httpcore follows no redirects and reads no proxies from the environment.
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
    """An answer that is no success, in a form that Postgres can keep."""
    if 300 <= status < 400:
        return f"It answered {status}; redirects are not followed. Give the webhook the final address."
    shown = answer.decode(errors="replace").replace("\0", "\ufffd")[:SHOWN_CHARACTERS].strip()
    return f"It answered {status}" + (f": {shown}" if shown else ".")


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Seconds; None without a header Retry-After that can be read."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            text = value.decode("latin-1").strip()
            if text.isascii() and text.isdigit():
                return float(text[:9])
            try:
                return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
            except (ValueError, TypeError, OverflowError):  # no date, one without a zone, or none there is
                return None
    return None
