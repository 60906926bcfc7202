"""Find a client's address behind proxies whose networks are named, and nowhere else.

Each proxy appends the address that it was called from to `X-Forwarded-For`, so an entry
is worth as much as who wrote it. Read from the right, beginning with the peer of the
connection, the first address that is in no trusted network is the client; whatever
stands left of it is what the client likes. Who reaches the service past the proxies is
the peer itself, and believed nothing. If a trusted proxy wrote what is no address, or
nothing, the proxy is the answer.

Name the networks of your proxies, and none with clients in it: whoever calls from there
may say what it likes. A server that has put the client in the peer's place, as uvicorn
can, changes nothing.

Source: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/X-Forwarded-For
"""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

Address = IPv4Address | IPv6Address
Networks = Collection[IPv4Network | IPv6Network]

UNKNOWN = "unknown"
HEADER = b"x-forwarded-for"
LONGEST = 64
"""Characters that are looked at: no address has more, with or without a port."""
IPV6_PREFIX = 64
"""Bits of an IPv6 address that a client on one link cannot choose."""


def client_address(scope: Mapping[str, Any], *, trusted_proxies: Networks) -> str:
    """Return the address of an ASGI scope's client, in its shortest form.

    `trusted_proxies` has what `ipaddress.ip_network` makes of your proxies' networks;
    if it is empty, the header is not looked at. `UNKNOWN` stands for a peer without an
    address, such as that of a Unix socket, and is trusted with nothing.
    """
    client = None
    for address in _addresses(scope):
        if address is None:
            break
        client = address
        if not any(address in network for network in trusted_proxies):
            break
    return UNKNOWN if client is None else str(client)


def client_network(scope: Mapping[str, Any], *, trusted_proxies: Networks) -> str:
    """Return what one client cannot leave: its IPv4 address, or its IPv6 network.

    Count by this, not by the address: an IPv6 client has 2**64 of them. Who was given a
    shorter prefix has several networks, with a /48 as many as 2**16.
    """
    address = client_address(scope, trusted_proxies=trusted_proxies)
    return _network(address) if ":" in address else address


def _addresses(scope: Mapping[str, Any]) -> Iterator[Address | None]:
    """Yield the peer, and then what the header has, from the right."""
    peer = scope.get("client")
    yield _parse(peer[0][:LONGEST]) if peer else None
    lines = [value for name, value in scope["headers"] if name == HEADER]
    for entry in reversed(b",".join(lines).decode("latin-1").split(",")):
        yield _parse(entry.strip()[:LONGEST])


@lru_cache(1024)
def _network(address: str) -> str:
    return str(IPv6Network((address, IPV6_PREFIX), strict=False))


@lru_cache(1024)  # the same clients come again, and parsing costs more than the rest
def _parse(text: str) -> Address | None:
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
