"""A request is its caller's, or is told exactly why not."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from catalogue.plugin import Proof
from snippets.auth import current_user_naive
from snippets.auth.current_user import (
    TokenAuth,
    get_auth_client,
    get_current_user,
    get_optional_user,
)
from snippets.auth.token_auth import AuthUser, FakeAuthClient, utc_now
from tests.support.auth_clients import FakeWorld
from tests.support.auth_service import Clock

HIDDEN = "b0a1c2d3-secret-of-ada"
HeaderLines = list[tuple[bytes, bytes]]


@pytest.fixture
def world() -> FakeWorld:
    """Nobody has logged in."""
    return FakeWorld()


@pytest.fixture
def app(world: FakeWorld) -> FastAPI:
    """An application that says who calls."""
    clocked, bearing = (
        TokenAuth(clock=world.clock),
        TokenAuth("Authorization", clock=world.clock),
    )
    app = FastAPI()
    app.state.auth_client = world.client

    @app.get("/me")
    async def me(user: Annotated[AuthUser, Depends(clocked.user)]) -> str:
        return user.auth_id

    @app.get("/anybody")
    async def anybody(
        user: Annotated[AuthUser | None, Depends(clocked.optional_user)],
    ) -> str | None:
        return user.auth_id if user else None

    @app.get("/bearer")
    async def bearer(user: Annotated[AuthUser, Depends(bearing.user)]) -> str:
        return user.auth_id

    return app


@asynccontextmanager
async def calling(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the application."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as http:
        yield http


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application."""
    async with calling(app) as http:
        yield http


def assert_unauthenticated(answer: httpx.Response, challenge: str = "APIKey") -> None:
    """Require a 401 with a challenge."""
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == [challenge]
    assert answer.json() == {"detail": "no valid token"}


async def test_a_request_with_a_valid_token_is_its_users(
    http: httpx.AsyncClient, world: FakeWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN, "ada")

    answer = await http.get("/me", headers={"X-Auth-Token": HIDDEN})

    assert (answer.status_code, answer.json()) == (200, "ada")
    assert world.calls == 1
    proof.cost("request", auth_calls=1)


async def test_a_missing_an_unknown_and_an_expired_token_are_told_401(
    http: httpx.AsyncClient, world: FakeWorld
) -> None:
    world.log_in(HIDDEN, life=60)

    assert_unauthenticated(await http.get("/me"))
    assert_unauthenticated(await http.get("/me", headers={"X-Auth-Token": "other"}))
    world.clock.move(60)
    assert_unauthenticated(await http.get("/me", headers={"X-Auth-Token": HIDDEN}))


async def test_a_client_that_still_knows_an_expired_token_is_not_believed(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    world.log_in(HIDDEN, life=60)
    late = Clock(world.clock() - timedelta(hours=1))
    app.dependency_overrides[get_auth_client] = lambda: forgetful
    forgetful = FakeAuthClient("test", late)
    forgetful.add(await world.client.get_user(HIDDEN))
    headers = {"X-Auth-Token": HIDDEN}
    assert (await http.get("/me", headers=headers)).json() == "ada"
    world.clock.move(60)

    assert_unauthenticated(await http.get("/me", headers=headers))


BAD_LINES: dict[str, HeaderLines] = {
    "twice": [(b"x-auth-token", HIDDEN.encode())] * 2,
    "a good one and a bad one": [
        (b"x-auth-token", HIDDEN.encode()),
        (b"x-auth-token", b"other"),
    ],
    "joined by a comma": [(b"x-auth-token", f"{HIDDEN},{HIDDEN}".encode())],
    "empty": [(b"x-auth-token", b"")],
    "with a space": [(b"x-auth-token", HIDDEN.encode() + b" x")],
    "with a control character": [(b"x-auth-token", HIDDEN.encode() + b"\x01")],
    "with a newline": [(b"x-auth-token", HIDDEN.encode() + b"\n")],
    "not ASCII": [(b"x-auth-token", HIDDEN.encode() + b"\xe9")],
    "not Latin": [(b"x-auth-token", "\N{SNOWMAN}".encode())],
    "too long": [(b"x-auth-token", b"a" * 4097)],
    "a path": [(b"x-auth-token", b"../users/" + HIDDEN.encode())],
    "percent-encoded": [(b"x-auth-token", b"%2e%2e")],
    "a scheme before it": [(b"x-auth-token", b"Bearer " + HIDDEN.encode())],
}


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("path", ["/me", "/anybody"])
async def test_what_is_not_one_token_is_told_401_and_reaches_nobody(
    http: httpx.AsyncClient,
    world: FakeWorld,
    name: str,
    path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.log_in(HIDDEN)

    with caplog.at_level(logging.DEBUG):
        answer = await http.get(path, headers=BAD_LINES[name])

    assert_unauthenticated(answer)
    assert world.calls == 0
    assert HIDDEN not in caplog.text + answer.text


async def test_an_auth_service_that_cannot_be_asked_is_told_503(
    http: httpx.AsyncClient, world: FakeWorld
) -> None:
    world.log_in(HIDDEN)
    world.go_down()

    for path in ("/me", "/anybody"):
        answer = await http.get(path, headers={"X-Auth-Token": HIDDEN})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "www-authenticate" not in answer.headers
        assert answer.json() == {"detail": "tokens cannot be verified"}
    assert_unauthenticated(await http.get("/me"))  # nobody need be asked


async def test_where_a_token_is_optional_none_is_anonymous_and_a_bad_one_is_401(
    http: httpx.AsyncClient, world: FakeWorld
) -> None:
    world.log_in(HIDDEN, "ada")

    assert (await http.get("/anybody")).json() is None
    answer = await http.get("/anybody", headers={"X-Auth-Token": HIDDEN})
    assert answer.json() == "ada"
    assert_unauthenticated(
        await http.get("/anybody", headers={"X-Auth-Token": "other"})
    )


async def test_a_service_may_take_bearer_tokens_instead(
    http: httpx.AsyncClient, world: FakeWorld
) -> None:
    world.log_in(HIDDEN, "ada")

    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {HIDDEN}"}
        assert (await http.get("/bearer", headers=headers)).json() == "ada"
    calls = world.calls
    bad = ["", "Bearer", f"Bearer  {HIDDEN}", f"Basic {HIDDEN}", HIDDEN, "Bearer a b"]
    for value in bad:
        answer = await http.get("/bearer", headers={"Authorization": value})
        assert_unauthenticated(answer, "Bearer")
    assert world.calls == calls
    other_header = await http.get("/bearer", headers={"X-Auth-Token": HIDDEN})
    assert_unauthenticated(other_header, "Bearer")
    unknown = await http.get("/bearer", headers={"Authorization": "Bearer unknown"})
    assert_unauthenticated(unknown, "Bearer")


async def test_the_scheme_is_shown_in_openapi(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()

    assert document["components"]["securitySchemes"] == {
        "X-Auth-Token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
        "Authorization": {"type": "http", "scheme": "bearer"},
    }
    assert document["paths"]["/me"]["get"]["security"] == [{"X-Auth-Token": []}]
    assert document["paths"]["/bearer"]["get"]["security"] == [{"Authorization": []}]


async def test_however_many_dependencies_ask_for_the_user_it_is_verified_once(
    http: httpx.AsyncClient, app: FastAPI, world: FakeWorld
) -> None:
    auth = TokenAuth(clock=world.clock)

    async def name(user: Annotated[AuthUser, Depends(auth.user)]) -> str:
        return user.auth_id

    @app.get("/twice", dependencies=[Depends(auth.user), Depends(auth.optional_user)])
    async def twice(
        user: Annotated[AuthUser, Depends(auth.user)],
        name: Annotated[str, Depends(name)],
    ) -> list[str]:
        return [user.auth_id, name]

    world.log_in(HIDDEN, "ada")
    answer = await http.get("/twice", headers={"X-Auth-Token": HIDDEN})

    assert answer.json() == ["ada", "ada"]
    assert world.calls == 1


async def test_the_ready_made_dependencies_read_the_usual_header() -> None:
    app = FastAPI()
    fake = FakeAuthClient("test")
    now = utc_now()
    fake.add(
        AuthUser(
            token=SecretStr(HIDDEN),
            auth_id="ada",
            session_uuid="s1",
            issued_at=now,
            expires_at=now + timedelta(hours=1),
        )
    )
    app.dependency_overrides[get_auth_client] = lambda: fake

    @app.get("/me")
    async def me(
        user: Annotated[AuthUser, Depends(get_current_user)],
        same: Annotated[AuthUser | None, Depends(get_optional_user)],
    ) -> AuthUser:
        assert user is same
        return user

    async with calling(app) as http:
        answer = await http.get("/me", headers={"X-Auth-Token": HIDDEN})
        assert answer.json()["auth_id"] == "ada"
        assert HIDDEN not in answer.text
        assert_unauthenticated(await http.get("/me"))


async def test_requests_of_two_users_at_once_never_see_each_others_identity(
    world: FakeWorld,
) -> None:
    names = [f"user-{number}" for number in range(50)]
    all_are_in = asyncio.Barrier(len(names))

    class Slow(FakeAuthClient):
        """Answers when all have asked."""

        async def get_user(self, token: str) -> AuthUser:
            """Return whose token it is, when all have asked."""
            await all_are_in.wait()
            return await super().get_user(token)

    slow = Slow("test", world.clock)
    for name in names:
        world.log_in(f"token-of-{name}", name)
        slow.add(await world.client.get_user(f"token-of-{name}"))
    auth = TokenAuth(clock=world.clock)
    app = FastAPI()
    app.state.auth_client = slow

    @app.get("/me")
    async def me(user: Annotated[AuthUser, Depends(auth.user)]) -> list[str]:
        before = user.auth_id
        await all_are_in.wait()
        return [before, user.auth_id, user.token.get_secret_value()]

    async with calling(app) as http:
        answers = await asyncio.gather(
            *(
                http.get("/me", headers={"X-Auth-Token": f"token-of-{name}"})
                for name in names
            )
        )

    assert [answer.json() for answer in answers] == [
        [name, name, f"token-of-{name}"] for name in names
    ]


def naive_application(world: FakeWorld) -> FastAPI:
    """Return an application with the naive dependency."""
    app = FastAPI()
    app.state.auth_client = world.client

    @app.get("/me")
    async def me(
        user: Annotated[AuthUser, Depends(current_user_naive.get_current_user)],
    ) -> str:
        return user.auth_id

    return app


async def test_the_naive_dependency_logs_everybody_out_in_an_outage(
    world: FakeWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN)
    world.go_down()
    async with calling(naive_application(world)) as http:
        answer = await http.get("/me", headers={"X-Auth-Token": HIDDEN})
        assert answer.status_code == 401
        assert HIDDEN in answer.text
        proof.breaks(
            "The auth service is down",
            "valid tokens are told 401, and the answer repeats them",
        )
        assert (await http.get("/me")).status_code == 422
        proof.breaks("No token is sent", "the status is 422, without a challenge")


async def test_the_naive_dependency_takes_one_of_two_tokens(
    world: FakeWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN, "ada")
    world.log_in("other", "grace")
    async with calling(naive_application(world)) as http:
        lines = [(b"x-auth-token", b"other"), (b"x-auth-token", HIDDEN.encode())]
        answers = [
            (await http.get("/me", headers=order)).json()
            for order in (lines, lines[::-1])
        ]
    assert answers == ["grace", "ada"]
    proof.breaks(
        "Two token headers are sent",
        "their order decides who calls, and a proxy may have checked the other",
    )
