"""The network as a webhook may use it: public addresses, vetted before each connection.

A name is looked up once, every address behind it has to be public, and the connection goes to an address that
was looked at. So a name that leads elsewhere a moment later (DNS rebinding) gains nothing.
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
    """The host's addresses are not all ones that the service may reach."""

    code = "webhook_address_refused"


class Deadline:
    """A moment by which all of an exchange has to be over."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds. Raises httpcore.TimeoutException when there are none."""
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise httpcore.TimeoutException("the time is over")
        return seconds


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Guard(httpcore.NetworkBackend):
    """Connects one exchange. Raises AddressRefused, and httpcore's errors."""

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
            # A fair share of the time: behind an address that does not answer may be one that does.
            share = self._deadline.left() / (len(addresses) - tried)
            try:
                # An address instead of a name: nothing is looked up again. TLS goes by the name all the same.
                stream = self._plain.connect_tcp(address, port, share, None, socket_options)
                return _Timed(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error

    def _vetted(self, host: str, port: int) -> list[str]:
        addresses = self._look_up(host, port)
        for address in addresses:
            # The address is not told: the tenant would learn what names mean inside this network.
            if not egress.may_reach(
                ip_address(address), allow_loopback=self._allow_loopback, loopback_only=self._loopback_only
            ):
                raise AddressRefused(f"The host {host} has an address that is not on the public internet.")
        return addresses

    def _look_up(self, host: str, port: int) -> list[str]:
        """In a thread of its own, as the system's resolver cannot be given a time limit."""
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
            raise httpcore.ConnectError(f"the host {host} cannot be found")
        return addresses


class _Timed(httpcore.NetworkStream):
    """A stream whose every step ends by the deadline: a receiver that drips cannot keep a sender for long."""

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
        return _Timed(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
