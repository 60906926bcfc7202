"""Every HTTP response has the headers once, and the route's own word counts."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from catalogue.plugin import Proof
from snippets.middleware import security_headers_naive as naive
from snippets.middleware.security_headers import (
    DEFAULT_HEADERS,
    DENY_ALL,
    HSTS,
    YEAR,
    SecurityHeadersMiddleware,
)
from snippets.middleware.security_headers_wiring import create_app
from tests.support.asgi import (
    Exchange,
    Receive,
    Scope,
    Send,
    live_server,
    websocket_scope,
)

CSP = "Content-Security-Policy"
STS = "Strict-Transport-Security"


async def ok(_: Scope, __: Receive, send: Send) -> None:
    """Answer with nothing special."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"ok"})


def telephony(directory: Path) -> FastAPI:
    """Return an application that answers in many ways."""
    app = FastAPI(max_body_size=10)
    app.mount("/static", StaticFiles(directory=directory))

    @app.get("/calls/{call_id}")
    async def show(call_id: int) -> float:
        if call_id == 429:
            raise HTTPException(429)
        return 1 / call_id

    @app.get("/moved")
    async def moved() -> RedirectResponse:
        return RedirectResponse("/calls/1")

    @app.post("/calls")
    async def start(request: Request) -> int:
        return len(await request.body())

    return app


async def test_the_defaults_are_these_and_nothing_unsafe() -> None:
    exchange = await Exchange().run(SecurityHeadersMiddleware(ok))

    assert {name.decode(): value.decode() for name, value in exchange.headers} == {
        "content-security-policy": DENY_ALL,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "strict-origin-when-cross-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
    }
    assert len(exchange.headers) == 5
    assert "unsafe" not in DENY_ALL


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (CSP, "default-src 'self'"),
        ("X-Frame-Options", "SAMEORIGIN"),
        ("PERMISSIONS-POLICY", "microphone=(self)"),
        (STS, "max-age=0"),
    ],
)
async def test_a_header_that_the_route_sets_wins(name: str, value: str) -> None:
    async def own(_: Scope, __: Receive, send: Send) -> None:
        headers = [(name.encode(), value.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    app = SecurityHeadersMiddleware(own)
    exchange = await Exchange(scheme="https").run(app)

    assert exchange.values(name) == [value]
    assert len(exchange.headers) == 6


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/calls/1", [], 200),
        ("GET", "/moved", [], 307),
        ("GET", "/static/ring.txt", [], 200),
        ("GET", "/static/none.txt", [], 404),
        ("GET", "/nothing", [], 404),
        ("DELETE", "/calls/1", [], 405),
        ("POST", "/calls", [b"a" * 8, b"a" * 8], 413),
        ("GET", "/calls/one", [], 422),
        ("GET", "/calls/429", [], 429),
        ("GET", "/calls/0", [], 500),
    ],
)
async def test_every_answer_has_all_headers_once(
    method: str, path: str, body: list[bytes], status: int, tmp_path: Path
) -> None:
    (tmp_path / "ring.txt").write_text("ring", "utf-8")
    exchange = Exchange(method, path, body=body, scheme="https")
    app = SecurityHeadersMiddleware(telephony(tmp_path))
    if status == 500:
        with pytest.raises(ZeroDivisionError):
            await exchange.run(app)
    else:
        await exchange.run(app)

    assert exchange.status == status
    for name in (CSP, STS, *DEFAULT_HEADERS):
        assert len(exchange.values(name)) == 1


async def test_an_early_refusal_of_a_large_body_has_the_headers_too(
    tmp_path: Path,
) -> None:
    length = [("Content-Length", "1000")]
    exchange = Exchange("POST", "/calls", length, [b"a" * 1000])
    await exchange.run(SecurityHeadersMiddleware(telephony(tmp_path)))

    assert (exchange.status, exchange.values(CSP)) == (413, [DENY_ALL])


@pytest.mark.parametrize(
    ("scheme", "forwarded", "trusted", "sent"),
    [
        ("http", [], False, False),
        ("https", [], False, True),
        ("http", ["https"], False, False),
        ("http", ["https"], True, True),
        ("http", ["http"], True, False),
        ("http", ["https", "http"], True, False),
        ("http", ["https, http"], True, False),
        ("http", [], True, False),
    ],
)
async def test_hsts_is_sent_where_the_connection_is_secure(
    *, scheme: str, forwarded: list[str], trusted: bool, sent: bool
) -> None:
    app = SecurityHeadersMiddleware(ok, trust_forwarded_proto=trusted)
    headers = [("X-Forwarded-Proto", value) for value in forwarded]
    exchange = await Exchange(headers=headers, scheme=scheme).run(app)

    expected = ["max-age=31536000; includeSubDomains"] if sent else []
    assert exchange.values(STS) == expected


async def test_hsts_can_be_left_to_the_proxy() -> None:
    app = SecurityHeadersMiddleware(ok, hsts=None)

    assert (await Exchange(scheme="https").run(app)).values(STS) == []


@pytest.mark.parametrize(
    "options",
    [
        {"preload": True, "max_age": YEAR - 1},
        {"preload": True, "include_subdomains": False},
        {"max_age": -1},
    ],
)
def test_what_the_preload_list_refuses_is_refused_at_once(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=r"preload needs|not negative"):
        HSTS(**options)


def test_what_it_takes_is_written_as_the_rfc_says() -> None:
    assert str(HSTS(preload=True)) == "max-age=31536000; includeSubDomains; preload"
    assert str(HSTS(60, include_subdomains=False)) == "max-age=60"


@pytest.mark.parametrize(
    ("path", "policy"),
    [
        ("/", DENY_ALL),
        ("/docs", "docs"),
        ("/docs/", "docs"),
        ("/docs/oauth2-redirect", "docs"),
        ("/docs/api/v2", "api"),
        ("/docstring", DENY_ALL),
        ("/api/docs", DENY_ALL),
        ("*", DENY_ALL),
        ("/docs/../calls", DENY_ALL),
        ("/docs/api/..", DENY_ALL),
        ("/docs/./calls", DENY_ALL),
        ("/docs\\..\\calls", DENY_ALL),
        ("/docs/..calls", "docs"),
    ],
)
async def test_a_policy_is_for_whole_segments_and_the_longest_path_wins(
    path: str, policy: str
) -> None:
    policies = {"/docs": "docs", "/docs/api/": "api"}
    app = SecurityHeadersMiddleware(ok, policies=policies)

    assert (await Exchange(path=path).run(app)).values(CSP) == [policy]
    mounted = Exchange(path=f"/telephony{path}", root_path="/telephony")
    assert (await mounted.run(app)).values(CSP) == [policy]


@pytest.mark.parametrize("hostile", ["a\r\nSet-Cookie: b", "a\n", "\x00", "\x7f", "é"])
def test_what_is_no_header_is_refused_at_once(hostile: str) -> None:
    for policy in (hostile, f"'nonce-{{nonce}}' {hostile}"):
        with pytest.raises(ValueError, match="is no header"):
            SecurityHeadersMiddleware(ok, policies={"/docs": policy})
    for headers in ({"X-Name": hostile}, {hostile: "a"}, {"": "a"}):
        with pytest.raises(ValueError, match="is no header"):
            SecurityHeadersMiddleware(ok, headers=headers)


async def test_a_file_that_a_detour_reaches_has_the_policy_of_the_root(
    tmp_path: Path,
) -> None:
    (tmp_path / "ring.txt").write_text("ring", "utf-8")
    app = SecurityHeadersMiddleware(
        telephony(tmp_path), policies={"/static/pages": "default-src *"}
    )
    exchange = await Exchange("GET", "/static/pages/../ring.txt").run(app)

    assert (exchange.status, exchange.body) == (200, b"ring")
    assert exchange.values(CSP) == [DENY_ALL]


async def test_a_nonce_is_new_for_each_request_and_known_to_the_page() -> None:
    seen = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["csp_nonce"])
        await ok(scope, receive, send)

    policy = "script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    app = SecurityHeadersMiddleware(page, policies={"/": policy})
    answers = [await Exchange().run(app) for _ in range(2)]

    expected = [[policy.replace("{nonce}", nonce)] for nonce in seen]
    assert [one.values(CSP) for one in answers] == expected
    assert seen[0] != seen[1]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", nonce) for nonce in seen)


async def test_the_list_is_built_once(proof: Proof) -> None:
    app = SecurityHeadersMiddleware(ok)
    answers = [await Exchange(path=path).run(app) for path in ("/a", "/b")]

    first, second = (one.headers for one in answers)
    assert all(one is other for one, other in zip(first, second, strict=True))
    proof.cost("a request", headers_built=0)


async def test_nothing_is_added_to_a_websocket_or_a_lifespan() -> None:
    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        assert (receive, send) == (exchange.receive, exchange.send)
        await send({"type": "websocket.accept", "scope": scope})

    exchange = Exchange()
    app = SecurityHeadersMiddleware(pass_on, policies={"/": "'nonce-{nonce}'"})
    for scope in (websocket_scope(), {"type": "lifespan"}):
        before = dict(scope)
        await app(scope, exchange.receive, exchange.send)
        assert exchange.sent.pop() == {"type": "websocket.accept", "scope": before}


async def test_a_body_is_passed_on_as_it_is() -> None:
    exchange = await Exchange().run(SecurityHeadersMiddleware(ok))

    assert exchange.sent[1:] == [{"type": "http.response.body", "body": b"ok"}]


async def test_over_a_socket_a_lying_length_is_answered_with_the_headers() -> None:
    app = SecurityHeadersMiddleware(telephony(Path()))
    async with live_server(app) as server:
        answer = await server.request(
            b"POST /calls HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n" + b"a" * 20
        )

    assert (answer.status, answer.values(CSP)) == (413, [DENY_ALL])


async def test_the_wired_pages_run_their_own_scripts_and_no_others() -> None:
    async with live_server(create_app()) as server:
        calls, page, docs = [
            await server.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            for path in ("/calls/7", "/pages/%3Cscript%3E", "/docs")
        ]

    assert (calls.status, calls.values(CSP)) == (200, [DENY_ALL])
    [policy] = page.values(CSP)
    [nonce] = re.findall(r"nonce-([\w-]+)", policy)
    assert f"<h1>&lt;script&gt;</h1><script nonce='{nonce}'>" in page.body.decode()
    [policy] = docs.values(CSP)
    scripts = re.findall(rb"<script>(.*?)</script>", docs.body, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0]).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy


async def test_the_naive_way_sends_two_policies(proof: Proof) -> None:
    app = FastAPI()
    naive.add_security_headers(app)

    @app.get("/")
    async def show() -> Response:
        return JSONResponse({}, headers={CSP: "default-src 'none'"})

    exchange = await Exchange().run(app)

    assert exchange.values(CSP) == ["default-src 'none'", naive.HEADERS[CSP]]
    assert "unsafe-inline" in naive.HEADERS[CSP]
    proof.breaks("The route has a policy of its own", "the answer has two policies")


async def test_the_naive_way_sends_hsts_over_http(proof: Proof) -> None:
    app = FastAPI()
    naive.add_security_headers(app)
    exchange = await Exchange().run(app)

    assert exchange.values(STS) == [naive.HEADERS[STS]]
    proof.breaks("The request came by http", "HSTS is sent all the same")


async def test_the_naive_way_leaves_the_unhandled_error_bare(
    tmp_path: Path, proof: Proof
) -> None:
    app = telephony(tmp_path)
    naive.add_security_headers(app)
    exchange = Exchange(path="/calls/0")
    with pytest.raises(ZeroDivisionError):
        await exchange.run(app)

    assert exchange.status == 500
    assert [exchange.values(name) for name in naive.HEADERS] == [[]] * 5
    proof.breaks("The handler raises", "the 500 has no header of them")
