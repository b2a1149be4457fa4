"""Where the service may connect to on a tenant's behalf: public addresses, over https.

For development, `webhook_allow_loopback` allows this machine too, also over plain http; no other private
address. A URL is checked when a webhook is created, the addresses of its host at every connection
(`worker.webhooks.ssrf_guard`).
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from store.errors import Invalid

MOST_CHARACTERS = 2000
# The only IPv6 range in public use; a NAT64 address stands for an IPv4 address (RFC 6052).
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class UrlRefused(Invalid):
    """The service does not send to this URL."""

    code = "webhook_url_refused"
    field = "url"


class Target(NamedTuple):
    """A URL as parsed when it was vetted, so that no second parser can read it differently."""

    scheme: str  # https, or http for loopback
    host: str  # without brackets
    port: int
    authority: str  # the Host header
    path: str  # and query

    @property
    def loopback_only(self) -> bool:
        return self.scheme == "http"


def vet_url(url: str, *, allow_loopback: bool) -> Target:
    """Parses and checks a URL, without resolving its host. Raises UrlRefused."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UrlRefused("The URL may only contain printable ASCII characters; percent-encode any others.")
    if len(url) > MOST_CHARACTERS:
        raise UrlRefused(f"The URL is longer than {MOST_CHARACTERS} characters.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
    except ValueError:
        raise UrlRefused("This is not a valid URL.") from None
    if parts.scheme not in ("https", "http") or not host:
        raise UrlRefused("The URL must start with https:// and a host.")
    if "@" in parts.netloc:
        raise UrlRefused("The URL must not contain a user name or password; messages are signed instead.")
    if parts.fragment:
        raise UrlRefused("The URL must not have a fragment (#…), which would not be sent.")
    if port == 0:
        raise UrlRefused("Port 0 is not valid.")
    _vet_host(host, plain=parts.scheme == "http", allow_loopback=allow_loopback)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.netloc, path)


def _vet_host(host: str, *, plain: bool, allow_loopback: bool) -> None:
    address = _literal(host)
    named_here = host == "localhost" or host.endswith(".localhost")
    here = named_here or (address is not None and address.is_loopback)
    if plain and not (here and allow_loopback):
        raise UrlRefused("The URL must start with https://.")
    if here and not allow_loopback:
        raise UrlRefused(
            "The URL points to this machine itself. For development, the setting "
            "PALIMPSEST_WEBHOOK_ALLOW_LOOPBACK=true allows that."
        )
    if address is not None and not may_reach(address, allow_loopback=allow_loopback):
        raise UrlRefused("The URL points to an address that is not on the public internet.")


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """A host as an address, in any notation that the system's resolver accepts: 127.1, 0x7f000001."""
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
    """Whether the service may connect to an address; if IPv6 embeds an IPv4 address, to both."""
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
