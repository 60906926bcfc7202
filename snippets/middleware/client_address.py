"""Find a client's address behind a declared number of proxies, and nowhere else.

Each proxy appends the address that it was called from to `X-Forwarded-For`, so only the
last entries are written by proxies that you run; all before them is what the client
likes. Behind two proxies the second entry from the right is the client. Whatever was
not there, or is no address, does not count: the peer of the connection is the answer.

This is for servers that leave the peer as it is: start uvicorn with
`--no-proxy-headers`, or let it do all of this and trust no proxy here.

Source: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/X-Forwarded-For
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Network, ip_address
from typing import Any

UNKNOWN = "unknown"
HEADER = b"x-forwarded-for"
LONGEST = 64
"""Characters that are looked at: no address has more, with or without a port."""
IPV6_PREFIX = 64
"""Bits of an IPv6 address that its owner cannot choose."""


def client_address(scope: Mapping[str, Any], *, trusted_proxies: int) -> str:
    """Return the address of an ASGI scope's client, in its shortest form.

    `trusted_proxies` is how many of your proxies each request passes; with 0 the header
    is not looked at. `UNKNOWN` stands for a peer without an address, such as that of a
    Unix socket. Raises `ValueError` for a negative number.
    """
    if trusted_proxies < 0:
        raise ValueError(f"{trusted_proxies} is not a number of proxies")
    peer = scope.get("client")
    address = _parse(peer[0][:LONGEST]) if peer else None
    if trusted_proxies:
        lines = [value for name, value in scope["headers"] if name == HEADER]
        entries = b",".join(lines).decode("latin-1").split(",")
        if len(entries) >= trusted_proxies:
            entry = entries[-trusted_proxies].strip()
            address = _parse(entry[:LONGEST]) or address
    return address or UNKNOWN


def client_network(scope: Mapping[str, Any], *, trusted_proxies: int) -> str:
    """Return what one client cannot leave: its IPv4 address, or its IPv6 network.

    Count by this, not by the address: an IPv6 client has 2**64 of them.
    """
    address = client_address(scope, trusted_proxies=trusted_proxies)
    return _network(address) if ":" in address else address


@lru_cache(1024)
def _network(address: str) -> str:
    return str(IPv6Network((address, IPV6_PREFIX), strict=False))


@lru_cache(1024)  # the same clients come again, and parsing costs more than the rest
def _parse(text: str) -> str | None:
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)
