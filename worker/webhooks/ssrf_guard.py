"""Restricts the connections of webhooks to public addresses, checked before each connection.

A name is resolved once, all of its addresses must be public, and the connection goes to one of the checked
addresses. A name that resolves differently a moment later (DNS rebinding) therefore gains nothing.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

import httpcore

from store.errors import StoreError
from store.webhooks import egress

Resolve = Callable[[str, int], list[str]]


class AddressRefused(StoreError):
    """The host has an address that the service may not connect to."""

    code = "webhook_address_refused"


class Deadline:
    """The time by which a whole exchange must be complete."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Remaining seconds. Raises httpcore.TimeoutException when none remain."""
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise httpcore.TimeoutException("the deadline has passed")
        return seconds


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class SsrfGuard(httpcore.NetworkBackend):
    """The network backend of one exchange. Raises AddressRefused and httpcore's errors."""

    def __init__(
        self,
        deadline: Deadline,
        *,
        allow_loopback: bool = False,
        loopback_only: bool = False,
        resolve: Resolve = system_resolver,
    ) -> None:
        self._deadline = deadline
        self._allow_loopback = allow_loopback
        self._loopback_only = loopback_only
        self._resolve = resolve
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        error: Exception = httpcore.ConnectError("the host has no address")
        addresses = self._vetted(host, port)
        for tried, address in enumerate(addresses):
            # An equal share of the remaining time: the next address may answer if this one does not.
            share = self._deadline.left() / (len(addresses) - tried)
            try:
                # The address instead of the name, so nothing is resolved again. TLS still verifies the name.
                stream = self._plain.connect_tcp(address, port, share, None, socket_options)
                return _DeadlineStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error

    def _vetted(self, host: str, port: int) -> list[str]:
        addresses = self._look_up(host, port)
        for address in addresses:
            # The address is not disclosed: the tenant would learn how names resolve inside this network.
            if not egress.may_reach(
                ip_address(address), allow_loopback=self._allow_loopback, loopback_only=self._loopback_only
            ):
                raise AddressRefused(f"The host {host} has an address that is not on the public internet.")
        return addresses

    def _look_up(self, host: str, port: int) -> list[str]:
        """Resolves in a separate thread, because the system's resolver takes no time limit."""
        found: list[str | Exception] = []

        def look_up() -> None:
            try:
                found.extend(self._resolve(host, port))
            except (OSError, UnicodeError) as error:
                found.append(error)

        thread = threading.Thread(target=look_up, daemon=True, name="resolver")
        thread.start()
        thread.join(self._deadline.left())
        if thread.is_alive():
            raise httpcore.ConnectTimeout("looking up the host took too long")
        addresses = [one for one in found if isinstance(one, str)]
        if len(addresses) < len(found):
            raise httpcore.ConnectError(f"the host {host} could not be resolved")
        return addresses


class _DeadlineStream(httpcore.NetworkStream):
    """A stream with one deadline for all operations: a receiver that sends slowly cannot occupy a sender."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _DeadlineStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
