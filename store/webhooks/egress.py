"""Where the service may send to in a tenant's name: public addresses, over https.

For development, `webhook_allow_loopback` adds this machine itself, over plain http too; nothing else private.
A URL is looked at when it is given, the addresses behind its name at every connection
(`worker.webhooks.ssrf_guard`).
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from store.errors import Invalid

MOST_CHARACTERS = 2000
# Only these are given out for the public IPv6 internet; NAT64 stands for an IPv4 address (RFC 6052).
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class UrlRefused(Invalid):
    """The service does not send to this address."""

    code = "webhook_url_refused"
    field = "url"


class Target(NamedTuple):
    """A URL taken apart by the one parser that also vetted it, so that no other can read it differently."""

    scheme: str  # https, or http for loopback
    host: str  # without brackets
    port: int
    authority: str  # the Host header
    path: str  # and query

    @property
    def loopback_only(self) -> bool:
        return self.scheme == "http"


def vet_url(url: str, *, allow_loopback: bool) -> Target:
    """Raises UrlRefused. Names are not looked up here."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UrlRefused("The URL may hold printable ASCII characters only; write others percent-encoded.")
    if len(url) > MOST_CHARACTERS:
        raise UrlRefused(f"The URL is longer than {MOST_CHARACTERS} characters.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
    except ValueError:
        raise UrlRefused("This is not a URL.") from None
    if parts.scheme not in ("https", "http") or not host:
        raise UrlRefused("The URL has to begin with https:// and a host.")
    if "@" in parts.netloc:
        raise UrlRefused("The URL may not hold a user name or password; messages are signed instead.")
    if parts.fragment:
        raise UrlRefused("The URL may not have a fragment (#…): it would not be sent.")
    if port == 0:
        raise UrlRefused("There is no port 0.")
    _vet_host(host, plain=parts.scheme == "http", allow_loopback=allow_loopback)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.netloc, path)


def _vet_host(host: str, *, plain: bool, allow_loopback: bool) -> None:
    address = _literal(host)
    named_here = host == "localhost" or host.endswith(".localhost")
    here = named_here or (address is not None and address.is_loopback)
    if plain and not (here and allow_loopback):
        raise UrlRefused("The URL has to begin with https://.")
    if here and not allow_loopback:
        raise UrlRefused(
            "The URL leads to this machine itself. For development, the setting "
            "PALIMPSEST_WEBHOOK_ALLOW_LOOPBACK=true allows that."
        )
    if address is not None and not may_reach(address, allow_loopback=allow_loopback):
        raise UrlRefused("The URL leads to an address that is not on the public internet.")


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is, in any of the spellings the system's resolver takes: 127.1, 0x7f000001."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def may_reach(
    address: IPv4Address | IPv6Address, *, allow_loopback: bool, loopback_only: bool = False
) -> bool:
    """Whether the service may connect to an address; for an IPv6 one that stands for an IPv4 one, to both."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
    if address.is_loopback:
        return allow_loopback
    return _is_public(address) and not loopback_only


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address not in _GLOBAL_UNICAST or not address.is_global or address.teredo is not None:
        return False
    return address.sixtofour is None or _is_public(address.sixtofour)
