"""An address comes from proxies that are ours, whatever else a client writes."""

import pytest
from fastapi import FastAPI, Request

from catalogue.plugin import Proof
from snippets.middleware.client_address import client_address, client_network
from snippets.middleware.client_address_naive import get_client_ip
from tests.support.asgi import Scope, http_scope, live_server

PEER, CLIENT, PROXY = "10.0.0.2", "203.0.113.7", "198.51.100.1"


def forwarded(*lines: str) -> Scope:
    """Return a scope of the inner proxy's, whose header has these lines."""
    headers = [("X-Forwarded-For", line.encode("latin-1")) for line in lines]
    return http_scope(headers=headers, client=(PEER, 4000))


@pytest.mark.parametrize(
    ("trusted_proxies", "address"), [(0, PEER), (1, PROXY), (2, CLIENT)]
)
def test_each_trusted_proxy_is_believed_one_entry(
    trusted_proxies: int, address: str
) -> None:
    scope = forwarded(f"{CLIENT}, {PROXY}")

    assert client_address(scope, trusted_proxies=trusted_proxies) == address


@pytest.mark.parametrize("invented", ["10.9.9.9", "a, b, c", "", ",,,", "\xff\x00"])
def test_what_a_client_invents_changes_nothing(invented: str) -> None:
    for scope in (
        forwarded(f"{invented}, {CLIENT}, {PROXY}"),
        forwarded(invented, f"{CLIENT},{PROXY}"),
        forwarded(invented, CLIENT, PROXY),
    ):
        assert client_address(scope, trusted_proxies=2) == CLIENT


@pytest.mark.parametrize("lines", [(), ("",), (CLIENT,), ("unknown, x",), (",",)])
def test_what_did_not_pass_all_proxies_has_the_peer_s_address(
    lines: tuple[str, ...],
) -> None:
    assert client_address(forwarded(*lines), trusted_proxies=2) == PEER


@pytest.mark.parametrize(
    "entry",
    ["x" * 65536, "203.0.113.7.1", "203.0.113.007", "1:2", "[", "[]:1", "<script>"],
)
def test_an_entry_that_is_no_address_does_not_count(entry: str) -> None:
    assert client_address(forwarded(entry), trusted_proxies=1) == PEER


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
    assert client_address(forwarded(entry), trusted_proxies=1) == address


@pytest.mark.parametrize("peer", [None, ("", 0), ("/run/app.sock", 0)])
def test_a_peer_without_an_address_is_unknown(peer: tuple[str, int] | None) -> None:
    scope = http_scope(client=peer)

    assert client_address(scope, trusted_proxies=0) == "unknown"
    assert client_network(scope, trusted_proxies=0) == "unknown"


def test_an_ipv6_client_cannot_leave_its_network() -> None:
    networks = {
        client_network(forwarded(f"2001:db8:7:1:{part:x}::9"), trusted_proxies=1)
        for part in range(100)
    }

    assert networks == {"2001:db8:7:1::/64"}
    assert client_network(forwarded(CLIENT), trusted_proxies=1) == CLIENT


def test_a_negative_number_of_proxies_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 is not a number"):
        client_address(forwarded(), trusted_proxies=-1)


async def test_over_a_socket_several_lines_are_one_list() -> None:
    app = FastAPI()

    @app.get("/")
    async def show(request: Request) -> list[str]:
        return [
            client_address(request.scope, trusted_proxies=depth) for depth in range(4)
        ]

    async with live_server(app) as server:
        answer = await server.request(
            b"GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 10.9.9.9\r\n"
            b"x-forwarded-for: 203.0.113.7,198.51.100.1\r\n\r\n"
        )

    assert answer.body == b'["127.0.0.1","198.51.100.1","203.0.113.7","10.9.9.9"]'


def test_the_naive_version_believes_whatever_stands_first(proof: Proof) -> None:
    seen = {
        get_client_ip(Request(forwarded(f"10.0.0.{number}, {CLIENT}, {PROXY}")))
        for number in range(100)
    }

    assert len(seen) == 100
    proof.breaks(
        "One client invents 100 first entries", f"it is taken for {len(seen)} clients"
    )
