"""Which hosts media may be fetched from: an allow-list of names, and public addresses alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address

_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_MAX_URL = 4096

_REFUSED = tuple(
    map(
        ip_network,
        (
            # Version 4: this network, private, shared, loopback, link-local, special, documentation, relays,
            # benchmarks, multicast, reserved.
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
            *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            # Version 6, of what is global unicast: special, Teredo, documentation, version 4 inside of 6 (6to4).
            *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        ),
    )
)
_GLOBAL_UNICAST = ip_network("2000::/3")
"""Version 6 addresses outside of it are local, multicast, or stand for those of version 4 (mapped, NAT64)."""


class HostRefused(Exception):
    """Nothing is fetched from there; the text says why."""


@dataclass(frozen=True)
class Target:
    """Where a URL leads."""

    scheme: str
    host: str
    """The name as it is resolved and certified, or an address without brackets."""
    port: int
    path: str
    """With the query, as it is sent."""
    address: Address | None
    """Where the host is an address."""

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path.partition('?')[0]}"[:200]


def parse_url(url: str) -> Target:
    """Return where an http or https URL leads; raises :class:`HostRefused` for one that cannot be meant well."""
    if len(url) > _MAX_URL:
        raise HostRefused(f"a URL may have {_MAX_URL} characters, not {len(url)}")
    if any(ord(character) <= 0x20 or character in '\x7f\\"<>' for character in url):
        raise HostRefused("a URL has no spaces, control characters, quotes or backslashes")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise HostRefused(f"this is not a URL: {error}") from None
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise HostRefused(f"a URL begins with http:// or https://, not {scheme or 'nothing'!r:.20}")
    if "@" in parts.netloc:
        raise HostRefused("a URL with a user name or password is not taken")
    if not host:
        raise HostRefused("the URL names no host")
    if port == 0 or parts.netloc.endswith(":"):
        raise HostRefused("the port of a URL is 1 to 65535")
    name, address = _host(host)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        raise HostRefused("what follows the host of a URL must be ASCII: write other characters as %XX")
    return Target(scheme, name, port or _PORTS[scheme], path, address)


def _host(text: str) -> tuple[str, Address | None]:
    """A name in lower case and as DNS has it (IDNA), or an address."""
    try:
        address = ip_address(text)
    except ValueError:
        pass
    else:
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise HostRefused("an address with a zone is not taken")
        return str(address), address
    name = text.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise HostRefused(f"{text!r:.80} is not the name of a host") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise HostRefused(f"{text!r:.80} is not the name of a host")
    return name, None


def is_public(address: Address) -> bool:
    """Return whether an address is of the public internet: not of this machine, of a network, or of several hosts.

    Version 6 addresses that stand for those of version 4 are not: where they lead is up to the network.
    """
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _REFUSED if network.version == address.version)


@dataclass(frozen=True)
class _Rule:
    name: str
    """A name, the end of names (``.example.com``), an address, or ``*``."""
    port: int | None
    """None for the usual ones of http and https."""
    address: Address | None

    def covers(self, target: Target) -> bool:
        if target.port != self.port and (self.port is not None or target.port != _PORTS[target.scheme]):
            return False
        if self.name == "*":
            return True
        if self.address is not None or target.address is not None:
            return self.address == target.address
        return target.host.endswith(self.name) if self.name.startswith(".") else target.host == self.name


class MediaHosts:
    """An allow-list of hosts.

    An entry is a name (``images.example.com``), all names below one (``*.example.com``), or ``*`` for every host; with
    ``:PORT`` for another port than the usual ones. Names lead to public addresses alone. A private address is an entry
    of its own, with its port: ``10.0.0.5:9000``, ``[fd00::5]:443``. Raises ``ValueError`` for anything else.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._rules = tuple(map(_rule, entries))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def target(self, url: str) -> Target:
        """Return where a URL leads; raises :class:`HostRefused` for one that is not on the list."""
        target = parse_url(url)
        if not any(rule.covers(target) for rule in self._rules):
            raise HostRefused(f"{target.authority!r:.100} is not among the hosts that media are fetched from")
        return target

    def check_address(self, target: Target, address: Address) -> None:
        """Raise :class:`HostRefused` for an address that the host of a URL must not lead to."""
        if target.address is not None and any(one.address == address and one.covers(target) for one in self._rules):
            return
        if not is_public(address):
            raise HostRefused(f"{target.authority!r:.100} leads to an address that is not public")


def _rule(entry: str) -> _Rule:
    allowed = "a name, *.NAME, * or an address with its port, each with :PORT if it is not the usual one"
    text, port = entry.strip(), None
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?", text)
    if found is None or (found[2] is not None and not 0 < int(found[2]) < 65536):
        raise ValueError(f"{entry!r:.100} is not an entry for media hosts; allowed are {allowed}")
    port = None if found[2] is None else int(found[2])
    host = found[1].removeprefix("[").removesuffix("]")
    if host == "*":
        return _Rule("*", port, None)
    try:
        name, address = _host(host.removeprefix("*."))
    except HostRefused:
        raise ValueError(f"{entry!r:.100} is not an entry for media hosts; allowed are {allowed}") from None
    if address is not None and port is None and not is_public(address):
        raise ValueError(f"{entry!r:.100}: an address that is not public needs its port, as in {found[1]}:8080")
    if host.startswith("*."):
        if address is not None:
            raise ValueError(f"{entry!r:.100} is not an entry for media hosts; allowed are {allowed}")
        name = f".{name}"
    return _Rule(name, port, address)


__all__ = ["Address", "HostRefused", "MediaHosts", "Target", "is_public", "parse_url"]
