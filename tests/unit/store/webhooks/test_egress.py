"""Which URLs and addresses the service sends to."""

from ipaddress import ip_address

import pytest

from store.webhooks.egress import UrlRefused, may_reach, vet_url

PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"]
PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",  # of carriers
    "169.254.169.254",  # clouds tell secrets there
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::7f00:1",  # IPv4-compatible
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # IPv4-translated
    "64:ff9b::7f00:1",  # NAT64 of loopback
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",  # local NAT64
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of loopback
    "2002:a9fe:a9fe::1",
    "2002:a00:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("allow_loopback", [False, True])
def test_addresses(allow_loopback: bool) -> None:
    reached = {
        text
        for text in [*PUBLIC, *LOOPBACK, *PRIVATE]
        if may_reach(ip_address(text), allow_loopback=allow_loopback)
    }
    assert reached == {*PUBLIC, *(LOOPBACK if allow_loopback else ())}


def test_plain_http_reaches_loopback_only() -> None:
    reached = [
        text
        for text in [*PUBLIC, *LOOPBACK, *PRIVATE]
        if may_reach(ip_address(text), allow_loopback=True, loopback_only=True)
    ]
    assert reached == LOOPBACK


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "example.com",
        "https://",
        "https:///path",
        "https://.",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://@example.com/",
        "https://example.com@10.0.0.1/",
        "https://example.com/#fragment",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:port/",
        "https://exa mple.com/",
        "https://example.com/\r\nX-Header: 1",
        "https://example.com\\@10.0.0.1/",
        "https://ex\u00e4mple.com/",
        "https://example.com/" + "x" * 2000,
        "https://[::1/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://0/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://10.0.0.1/",
        "https://10.0.0.1./",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data",
        "https://0xa9fea9fe/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::1]/",
    ],
)
def test_refused_urls(url: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        vet_url(url, allow_loopback=False)
    assert str(refused.value).endswith(".")


def test_what_a_url_leads_to() -> None:
    assert vet_url("https://example.com", allow_loopback=False) == (
        "https",
        "example.com",
        443,
        "example.com",
        "/",
    )
    found = vet_url("https://Example.com:8443/a%20b?c=d", allow_loopback=False)
    assert found == ("https", "example.com", 8443, "Example.com:8443", "/a%20b?c=d")
    assert vet_url("https://[2606:4700::1]/", allow_loopback=False).host == "2606:4700::1"
    assert vet_url("https://1.1.1.1/", allow_loopback=False).port == 443


def test_the_development_setting_allows_this_machine_and_nothing_else() -> None:
    for url in ("http://127.0.0.1:9000/", "http://localhost/", "https://[::1]/", "http://127.1/"):
        vet_url(url, allow_loopback=True)
    for url in (
        "http://example.com/",
        "http://10.0.0.1/",
        "https://10.0.0.1/",
        "http://1.1.1.1/",
        "http://0/",
    ):
        with pytest.raises(UrlRefused):
            vet_url(url, allow_loopback=True)
