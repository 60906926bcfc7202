"""An address comes from proxies that are ours, whatever else a client writes."""

from ipaddress import ip_network

import pytest
from fastapi import FastAPI, Request

from catalogue.plugin import Proof
from snippets.middleware.client_address import (
    Networks,
    _parse,
    client_address,
    client_network,
)
from snippets.middleware.client_address_naive import get_client_ip
from tests.support.asgi import Scope, http_scope, live_server

PEER, CLIENT, PROXY = "10.0.0.2", "203.0.113.7", "198.51.100.1"
INNER, BOTH = [ip_network("10.0.0.0/8")], [ip_network("10.0.0.0/8"), ip_network(PROXY)]


def forwarded(*lines: str, peer: str = PEER) -> Scope:
    """Return a scope of the inner proxy's, whose header has these lines."""
    headers = [("X-Forwarded-For", line.encode("latin-1")) for line in lines]
    return http_scope(headers=headers, client=(peer, 4000))


@pytest.mark.parametrize(
    ("trusted_proxies", "address"), [([], PEER), (INNER, PROXY), (BOTH, CLIENT)]
)
def test_the_first_address_from_the_right_that_is_no_proxy_is_the_client(
    trusted_proxies: Networks, address: str
) -> None:
    scope = forwarded(f"{CLIENT}, {PROXY}")

    assert client_address(scope, trusted_proxies=trusted_proxies) == address


@pytest.mark.parametrize(
    "invented", ["10.9.9.9", PROXY, "192.0.2.9", "a, b, c", "", ",,,", "\xff\x00"]
)
def test_what_a_client_invents_changes_nothing(invented: str) -> None:
    for scope in (
        forwarded(f"{invented}, {CLIENT}, {PROXY}"),
        forwarded(invented, f"{CLIENT},{PROXY}"),
        forwarded(invented, CLIENT, PROXY),
    ):
        assert client_address(scope, trusted_proxies=BOTH) == CLIENT


@pytest.mark.parametrize(
    "lines", [("192.0.2.9",), (f"192.0.2.9, {PROXY}",), (PEER,), ("", ","), ()]
)
@pytest.mark.parametrize("peer", [CLIENT, "2001:db8::7", "::ffff:203.0.113.7"])
def test_who_reaches_the_service_past_the_proxies_is_believed_nothing(
    lines: tuple[str, ...], peer: str
) -> None:
    scope = forwarded(*lines, peer=peer)

    address = client_address(scope, trusted_proxies=BOTH)
    assert address == client_address(scope, trusted_proxies=[])
    assert address in (CLIENT, "2001:db8::7")


@pytest.mark.parametrize("lines", [(), ("",), ("unknown, x",), (",",), (f"{PEER},",)])
def test_what_a_proxy_did_not_say_is_not_guessed(lines: tuple[str, ...]) -> None:
    assert client_address(forwarded(*lines), trusted_proxies=BOTH) == PEER


def test_who_calls_from_a_proxy_s_own_network_is_the_leftmost_of_it() -> None:
    scope = forwarded(f"10.0.0.9, {PROXY}")

    assert client_address(scope, trusted_proxies=BOTH) == "10.0.0.9"


@pytest.mark.parametrize(
    "entry",
    ["x" * 65536, "203.0.113.7.1", "203.0.113.007", "1:2", "[", "[]:1", "<script>"],
)
def test_an_entry_that_is_no_address_does_not_count(entry: str) -> None:
    assert client_address(forwarded(entry), trusted_proxies=INNER) == PEER


def test_of_an_entry_no_more_is_looked_at_than_an_address_has() -> None:
    scope = forwarded(f"{CLIENT}:{'1' * 65536}")
    _parse.cache_clear()

    assert client_address(scope, trusted_proxies=INNER) == CLIENT
    assert client_address(forwarded(f"{CLIENT}:{'1' * 999}"), trusted_proxies=INNER)
    assert _parse.cache_info().misses == 2  # the peer, and both entries as one


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:0DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
    ],
)
def test_one_address_has_one_form(entry: str, address: str) -> None:
    assert client_address(forwarded(entry), trusted_proxies=INNER) == address


@pytest.mark.parametrize("peer", [None, ("", 0), ("/run/app.sock", 0)])
def test_a_peer_without_an_address_is_unknown(peer: tuple[str, int] | None) -> None:
    scope = http_scope(client=peer, headers=[("X-Forwarded-For", CLIENT)])

    assert client_address(scope, trusted_proxies=BOTH) == "unknown"
    assert client_network(scope, trusted_proxies=BOTH) == "unknown"


def test_an_ipv6_client_cannot_leave_its_network() -> None:
    networks = {
        client_network(forwarded(f"2001:db8:7:1:{part:x}::9"), trusted_proxies=INNER)
        for part in range(100)
    }

    assert networks == {"2001:db8:7:1::/64"}
    several = {
        client_network(forwarded(f"2001:db8:7:{part:x}::9"), trusted_proxies=INNER)
        for part in range(100)
    }
    assert len(several) == 100  # to whoever was given a /48
    assert client_network(forwarded(CLIENT), trusted_proxies=INNER) == CLIENT


async def test_over_a_socket_several_lines_are_one_list() -> None:
    app = FastAPI()
    loopback, outer = ip_network("127.0.0.0/8"), ip_network("198.51.100.0/24")

    @app.get("/")
    async def show(request: Request) -> list[str]:
        return [
            client_address(request.scope, trusted_proxies=trusted)
            for trusted in ([], [loopback], [loopback, outer], [outer])
        ]

    async with live_server(app) as server:
        answer = await server.request(
            b"GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 10.9.9.9\r\n"
            b"x-forwarded-for: 203.0.113.7,198.51.100.1\r\n\r\n"
        )

    assert answer.body == b'["127.0.0.1","198.51.100.1","203.0.113.7","127.0.0.1"]'


def test_the_naive_version_believes_whatever_stands_first(proof: Proof) -> None:
    seen = {
        get_client_ip(Request(forwarded(f"10.0.0.{number}, {CLIENT}, {PROXY}")))
        for number in range(100)
    }

    assert len(seen) == 100
    proof.breaks(
        "One client invents 100 first entries", f"it is taken for {len(seen)} clients"
    )
