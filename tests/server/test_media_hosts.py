"""The allow-list of media hosts: what a URL leads to, and which addresses are public."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httptools", reason="needs the extra llama-cffi[server]")

from llama_cffi.server.media_hosts import HostRefused, MediaHosts, is_public, parse_url

NOT_PUBLIC = (
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.7"),
    *("203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "fc00::1"),
    *("fd12:3456::1", "fe80::1", "fec0::1", "ff02::1"),
)
PUBLIC = ("8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e")


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_that_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_no_address_is_public_that_python_knows_to_be_otherwise(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("https://a.example/b.png", "https", "a.example", 443, "/b.png"),
        ("HTTP://A.Example./b.png?c=d#e", "http", "a.example", 80, "/b.png?c=d"),
        ("https://a.example", "https", "a.example", 443, "/"),
        ("https://a.example?b", "https", "a.example", 443, "/?b"),
        ("http://a.example:8080/", "http", "a.example", 8080, "/"),
        ("https://b\u00fccher.example/", "https", "xn--bcher-kva.example", 443, "/"),
        ("http://[2606:4700::1]:81/x", "http", "2606:4700::1", 81, "/x"),
        # As DNS has it, a name of full-width digits is one of digits: it is resolved, and its address checked.
        ("http://\uff11\uff12\uff17.0.0.1/", "http", "127.0.0.1", 80, "/"),
    ],
)
def test_urls(url: str, scheme: str, host: str, port: int, path: str) -> None:
    found = parse_url(url)
    assert (found.scheme, found.host, found.port, found.path) == (scheme, host, port, path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/", "file:///etc/passwd", "//a.example/", "http:///x", "http://", "https://:443/",
        "http://user:word@a.example/", "http://a.example@b.example/", "http://a.example:0/", "http://a.example:/",
        "http://a.example:65536/", "http://a.example:8x/", "http://a.example\\@b.example/", "http://a.exam ple/",
        "http://a.example/\r\nHost: b", "http://a.example\t/", "\x00http://a.example/", "http://a_b..example/",
        "http://-a.example/", f"http://{'a' * 64}.example/", "http://[::1/", "http://[fe80::1%25eth0]/",
        "http://a.example%2f@b/", "http://a.example/\u00e9", f"http://a.example/{'a' * 5000}",
        "http://\u00ad/", "http://a.example:80:80/",
    ],
)  # fmt: skip
def test_urls_that_cannot_be_meant_well(url: str) -> None:
    with pytest.raises(HostRefused):
        parse_url(url)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"https://a.example{text}"):
        try:
            found = parse_url(url)
        except HostRefused:
            continue
        line = f"GET {found.path} HTTP/1.1\r\nHost: {found.authority}\r\n"
        assert (line.isascii(), line.count("\r\n"), line.count(" "), found.path[0]) == (True, 2, 3, "/")
        assert 0 < found.port < 65536


def test_the_list_says_which_hosts() -> None:
    hosts = MediaHosts(["a.example", "*.b.example", "c.example:8443", "127.0.0.1:9000", "[fd00::5]:81"])
    for url in (
        "https://a.example/", "http://A.EXAMPLE./", "https://x.b.example/", "https://x.y.b.example/",
        "https://c.example:8443/", "http://127.0.0.1:9000/", "http://[fd00::5]:81/",
    ):  # fmt: skip
        assert hosts.target(url)
    for url in (
        "https://b.a.example/", "https://a.example.evil/", "https://xa.example/", "https://b.example/",
        "https://xb.example/", "https://c.example/", "http://127.0.0.1/", "http://127.0.0.1:9001/",
        "https://a.example:8443/", "http://a.example:443/", "http://[::ffff:127.0.0.1]:9000/", "http://[fd00::5]/",
    ):  # fmt: skip
        with pytest.raises(HostRefused, match="not among the hosts"):
            hosts.target(url)
    assert not MediaHosts()
    with pytest.raises(HostRefused):
        MediaHosts().target("https://a.example/")


def test_names_lead_to_public_addresses_alone_also_those_that_are_listed_as_addresses() -> None:
    hosts = MediaHosts(["*", "*:9000", "127.0.0.1:9000"])
    loopback = ipaddress.ip_address("127.0.0.1")
    hosts.check_address(hosts.target("http://127.0.0.1:9000/"), loopback)
    hosts.check_address(hosts.target("https://a.example/"), ipaddress.ip_address("8.8.8.8"))
    for url in ("http://a.example:9000/", "http://127.0.0.1/", "http://127.0.0.2:9000/"):
        target = hosts.target(url)
        with pytest.raises(HostRefused, match="not public"):
            hosts.check_address(target, target.address or loopback)


@pytest.mark.parametrize(
    "entry", ["", "a.example:0", "a.example:99999", "a b", "http://a.example", "*.127.0.0.1", "10.0.0.1", "::1", "a/b"]
)
def test_entries_that_are_none(entry: str) -> None:
    with pytest.raises(ValueError, match=r"media hosts|needs its port"):
        MediaHosts([entry])
