"""A route is open to those whose grants say so, and shows what it requires."""

import logging
from collections.abc import AsyncIterator, Callable, MutableMapping
from datetime import date
from enum import IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Path, WebSocket
from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainValidator,
    StringConstraints,
    WrapValidator,
)
from starlette.convertors import CONVERTOR_TYPES, Convertor

from catalogue.plugin import Proof
from snippets.auth import require_acl_naive
from snippets.auth.current_user import TokenAuth, get_current_user
from snippets.auth.require_acl import (
    AclRoute,
    Requirement,
    require_acl,
    require_all_acls,
    require_any_acl,
)
from snippets.auth.token_auth import AuthUser
from tests.support.auth_clients import FakeWorld

HIDDEN = "b0a1c2d3-secret-of-ada"
HEADERS = {"X-Auth-Token": HIDDEN}


@pytest.fixture
def world() -> FakeWorld:
    """Nobody has logged in."""
    return FakeWorld()


@pytest.fixture
def app(world: FakeWorld) -> FastAPI:
    """An application of checked routes, and with this world's clock."""
    app = FastAPI()
    app.router.route_class = AclRoute
    app.state.auth_client = world.client
    auth = TokenAuth(clock=world.clock)
    app.dependency_overrides[get_current_user] = auth.user
    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://pbx", headers=HEADERS
    ) as http:
        yield http


def add_route(
    app: FastAPI | APIRouter, path: str, *required: Requirement, method: str = "GET"
) -> None:
    """Add a route with these requirements, which answers 200."""

    async def show() -> str:
        return "shown"

    app.add_api_route(
        path, show, methods=[method], dependencies=[Depends(one) for one in required]
    )


async def status(http: httpx.AsyncClient, path: str, method: str = "GET") -> int:
    """Return the status of a request."""
    return (await http.request(method, path)).status_code


async def test_who_has_the_permission_passes_and_others_are_told_403(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    add_route(app, "/users", require_acl("users.read"))

    world.log_in(HIDDEN, acl=["users.*"])
    assert await status(http, "/users") == 200
    world.log_in(HIDDEN, acl=["calls.#", "!users.read", "#.secret"])
    answer = await http.get("/users")
    assert answer.status_code == 403
    assert answer.json() == {"detail": "requires users.read"}
    assert "www-authenticate" not in answer.headers


async def test_without_a_valid_token_it_is_401_and_in_an_outage_503(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    add_route(app, "/users", require_acl("users.read"))

    assert await status(http, "/users") == 401
    world.go_down()
    assert await status(http, "/users") == 503


async def test_a_refusal_tells_what_is_required_and_nothing_of_the_caller(
    app: FastAPI,
    http: httpx.AsyncClient,
    world: FakeWorld,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add_route(app, "/a/{name}", require_all_acls("a.{name}", "b"))
    add_route(app, "/b", require_any_acl("a", "b"))
    world.log_in(HIDDEN, "ada", acl=["only.this"])

    with caplog.at_level(logging.DEBUG):
        both, one = await http.get("/a/<x>"), await http.get("/b")

    assert both.json() == {"detail": "requires a.{name} and b"}
    assert one.json() == {"detail": "requires a or b"}
    for text in (HIDDEN, "only.this"):
        assert text not in both.text + one.text + str(both.headers) + caplog.text


async def test_all_means_all_and_any_means_any(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    add_route(app, "/all", require_all_acls("a", "b"))
    add_route(app, "/any", require_any_acl("a", "b"))

    expected = {
        (): (403, 403),
        ("a",): (403, 200),
        ("b",): (403, 200),
        ("a", "b"): (200, 200),
        ("#", "!b"): (403, 200),
        ("#", "!a", "!b"): (403, 403),
    }
    for acl, answers in expected.items():
        world.log_in(HIDDEN, acl=acl)
        assert (await status(http, "/all"), await status(http, "/any")) == answers


async def test_a_placeholder_is_filled_from_the_path_with_dots_replaced(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    add_route(
        app, "/users/{user_id}/{kind}", require_acl("users.{user_id}.{kind}.read")
    )
    world.log_in(HIDDEN, "john.doe", acl=["users.me.lines.read"])

    assert await status(http, "/users/john.doe/lines") == 200
    assert await status(http, "/users/john_doe/lines") == 200
    assert await status(http, "/users/me/lines") == 200
    assert await status(http, "/users/grace/lines") == 403
    assert await status(http, "/users/john.doe/voicemails") == 403


async def test_a_denial_holds_for_an_id_with_dots_in_the_path(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    add_route(app, "/users/{user_id}", require_acl("users.{user_id}.delete"))
    world.log_in(HIDDEN, acl=["#", "!users.*.delete"])

    assert await status(http, "/users/john.doe") == 403


@pytest.mark.parametrize(
    "segment", ["%0A", "ada%0A", "a%00", "%7F", "ada%C2%85", "{user_id}", "{0}", "*"]
)
async def test_a_path_cannot_widen_what_is_required(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld, segment: str
) -> None:
    add_route(app, "/users/{user_id}", require_acl("users.{user_id}.read"))
    world.log_in(HIDDEN, "ada", acl=["users.ada.read", "users.me.read"])

    assert await status(http, f"/users/{segment}") == 403
    assert await status(http, "/users/ada") == 200


def test_nothing_required_is_an_error() -> None:
    with pytest.raises(ValueError, match="are no templates"):
        require_any_acl()
    with pytest.raises(ValueError, match="are no templates"):
        require_all_acls()


@pytest.mark.parametrize(
    "template", ["a.{}", "a.{0}", "a.{b", "a.b}", "a.{b.c}", "a.{b!r}", "a.{{b}}"]
)
def test_a_template_that_could_never_be_filled_is_an_error(template: str) -> None:
    with pytest.raises(ValueError, match="are no templates"):
        require_acl(template)


def test_a_placeholder_that_the_path_does_not_have_is_an_error_at_registration(
    app: FastAPI,
) -> None:
    with pytest.raises(ValueError, match=r"/users/\{user_id\} has no parameter 'id'"):
        add_route(app, "/users/{user_id}", require_acl("users.{id}.read"))

    async def nested(_: Annotated[AuthUser, Depends(require_acl("a.{b}"))]) -> None:
        raise NotImplementedError

    with pytest.raises(ValueError, match="has no parameter 'b'"):

        @app.get("/a", dependencies=[Depends(nested)])
        async def show() -> None:
            raise NotImplementedError


def test_text_that_the_handler_reads_otherwise_is_an_error_at_registration(
    app: FastAPI,
) -> None:
    dependency = Depends(require_acl("users.{user_id}.delete"))

    with pytest.raises(ValueError, match="convert 'user_id' in the path"):

        @app.delete("/users/{user_id}", dependencies=[dependency])
        async def by_number(user_id: int) -> int:
            return user_id

    with pytest.raises(ValueError, match="convert 'user_id' in the path"):

        @app.delete("/by-uuid/{user_id}", dependencies=[dependency])
        async def by_uuid(user_id: UUID) -> UUID:
            return user_id

    with pytest.raises(ValueError, match="convert 'user_id' in the path"):

        @app.delete("/by-path/{user_id:path}", dependencies=[dependency])
        async def by_path(user_id: int) -> int:
            return user_id

    @app.delete("/other/{user_id}/{line}", dependencies=[dependency])
    async def by_text(user_id: str, line: int) -> str:
        return f"{user_id}{line}"


def test_text_that_a_dependency_reads_otherwise_is_an_error_at_registration(
    app: FastAPI,
) -> None:
    async def load(user_id: int) -> int:
        return user_id

    async def load_all(user: Annotated[int, Depends(load)]) -> list[int]:
        return [user]

    async def delete(users: Annotated[list[int], Depends(load_all)]) -> list[int]:
        return users

    required = [Depends(require_acl("users.{user_id}.delete"))]
    with pytest.raises(ValueError, match="convert 'user_id' in the path"):
        app.add_api_route("/users/{user_id}", delete, dependencies=required)


TRANSFORMED: dict[str, Any] = {
    "to lower case": Annotated[str, StringConstraints(to_lower=True)],
    "to upper case": Annotated[str, StringConstraints(to_upper=True)],
    "without spaces": Annotated[str, StringConstraints(strip_whitespace=True)],
    "afterwards": Annotated[str, AfterValidator(str.lower)],
    "before": Annotated[str, BeforeValidator(str.lower)],
    "in between": Annotated[str, WrapValidator(lambda text, read: read(text)[:1])],
    "wholly": Annotated[str, PlainValidator(str.lower)],
    "with a condition": Annotated[str, Path(min_length=1), AfterValidator(str.lower)],
    "to a choice": Literal["ada"],
    "to nothing": str | None,
}


@pytest.mark.parametrize("way", TRANSFORMED)
@pytest.mark.parametrize("form", ["{name}", "{name:str}", "{name:path}"])
def test_text_that_is_transformed_is_an_error_at_registration(
    app: FastAPI, way: str, form: str
) -> None:
    async def delete(name: str) -> str:
        return name

    delete.__annotations__["name"] = TRANSFORMED[way]
    required = [Depends(require_acl("users.{name}.delete"))]
    with pytest.raises(ValueError, match="convert 'name' in the path"):
        app.add_api_route(f"/{form}", delete, methods=["DELETE"], dependencies=required)


async def test_text_may_have_conditions_that_do_not_change_it(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    ways: list[Any] = [
        Annotated[str, Path(min_length=1, max_length=9, pattern="^[A-Za-z]*$")],
        Annotated[str, StringConstraints(min_length=1, pattern="^[A-Za-z]*$")],
        Annotated[str, Path(title="a name"), "a note"],
        str,
    ]
    world.log_in(HIDDEN, acl=["#", "!users.ada"])
    for n, way in enumerate(ways):

        async def show(name: str) -> str:
            return name

        show.__annotations__["name"] = way
        required = [Depends(require_acl("users.{name}"))]
        app.add_api_route(f"/{n}/{{name}}", show, dependencies=required)
        assert await status(http, f"/{n}/ada") == 403
        assert (await http.get(f"/{n}/ADA")).json() == "ADA"


async def test_a_converted_parameter_is_what_the_handler_is_given(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    @app.delete(
        "/users/{user_id:int}",
        dependencies=[Depends(require_acl("users.{user_id}.delete"))],
    )
    async def delete(user_id: int) -> int:
        return user_id

    @app.get(
        "/lines/{line:uuid}", dependencies=[Depends(require_acl("lines.{line}.read"))]
    )
    async def show(line: UUID) -> UUID:
        return line

    line = "2c3b4d5e-0000-4000-8000-00000000000a"
    world.log_in(HIDDEN, acl=["#", "!users.7.delete", f"!lines.{line}.read"])

    for text in ("7", "007"):
        assert await status(http, f"/users/{text}", "DELETE") == 403
    assert await status(http, "/users/8", "DELETE") == 200
    for text in (line, line.upper(), line.replace("-", "")):
        assert await status(http, f"/lines/{text}") == 403


CONVERTED: dict[str, Any] = {
    "{user_id:float}": int,  # 7.0 would be 7
    "{user_id:int}": Annotated[int, AfterValidator(abs)],
    "{user_id:uuid}": Annotated[UUID, BeforeValidator(lambda one: one)],
}


@pytest.mark.parametrize("parameter", CONVERTED)
def test_a_converted_parameter_that_the_handler_converts_again_is_an_error(
    app: FastAPI, parameter: str
) -> None:
    async def delete(user_id: object) -> str:
        return str(user_id)

    delete.__annotations__["user_id"] = CONVERTED[parameter]
    required = [Depends(require_acl("users.{user_id}.delete"))]
    with pytest.raises(ValueError, match="convert 'user_id' in the path alone"):
        app.add_api_route(f"/{parameter}", delete, dependencies=required)


async def test_a_choice_of_numbers_and_a_convertor_of_ones_own_are_accepted(
    app: FastAPI,
    http: httpx.AsyncClient,
    world: FakeWorld,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Line(IntEnum):
        """Which line of an extension."""

        FIRST = 1

    async def by_line(line: Line) -> int:
        return line

    async def by_number(number: Literal[7]) -> int:
        return number

    async def by_month(month: Annotated[date, AfterValidator(lambda one: one)]) -> str:
        return month.isoformat()

    class MonthConvertor(Convertor[date]):
        """A month in the path."""

        regex = r"\d{4}-\d{2}"

        def convert(self, value: str) -> date:
            """Return the first day."""
            return date.fromisoformat(f"{value}-01")

    monkeypatch.setitem(CONVERTOR_TYPES, "month", MonthConvertor())
    handlers: dict[str, Callable[..., Any]] = {
        "{line:int}/lines": by_line,
        "{number:int}": by_number,
        "{month:month}/bills": by_month,
    }
    for path, handler in handlers.items():
        name = path[1:].partition(":")[0]
        required = [Depends(require_acl(f"of.{{{name}}}"))]
        app.add_api_route(f"/{path}", handler, dependencies=required)
    world.log_in(HIDDEN, acl=["of.1", "of.7", "of.2026-11-01"])
    assert (await http.get("/1/lines")).json() == 1
    assert (await http.get("/7")).json() == 7
    assert (await http.get("/2026-11/bills")).json() == "2026-11-01"
    assert await status(http, "/2026-12/bills") == 403


async def test_more_digits_than_python_reads_are_a_fault_of_a_converted_parameter(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    @app.get(
        "/users/{user_id:int}",
        dependencies=[Depends(require_acl("users.{user_id}.read"))],
    )
    async def show(user_id: int) -> str:
        return hex(user_id)[:4]

    world.log_in(HIDDEN, acl=["#"])
    assert await status(http, f"/users/{'9' * 4000}") == 200
    with pytest.raises(ValueError, match="4300 digits"):
        await status(http, f"/users/{'9' * 4301}")


async def test_openapi_lists_what_a_route_requires(
    app: FastAPI, http: httpx.AsyncClient
) -> None:
    router = APIRouter(
        route_class=AclRoute,
        prefix="/tenants/{tenant_id}",
        dependencies=[Depends(require_acl("tenants.{tenant_id}"))],
    )
    add_route(router, "/users", require_any_acl("a", "b"), require_all_acls("c", "d"))
    app.include_router(router, prefix="/v1")
    add_route(app, "/open")

    paths = (await http.get("/openapi.json")).json()["paths"]

    operation = paths["/v1/tenants/{tenant_id}/users"]["get"]
    assert operation["x-required-acl"] == [
        {"all": ["tenants.{tenant_id}"]},
        {"any": ["a", "b"]},
        {"all": ["c", "d"]},
    ]
    assert operation["security"] == [{"X-Auth-Token": []}]
    assert paths["/open"]["get"]["x-required-acl"] == []


async def test_an_included_router_requires_what_it_required_alone(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    router = APIRouter(route_class=AclRoute, prefix="/tenants/{tenant_id}")
    add_route(router, "/users", require_acl("tenants.{tenant_id}.users"))
    app.include_router(router, prefix="/v1")
    world.log_in(HIDDEN, acl=["tenants.acme.users"])

    assert await status(http, "/v1/tenants/acme/users") == 200
    assert await status(http, "/v1/tenants/globex/users") == 403


async def test_however_many_permissions_a_route_requires_the_token_is_verified_once(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN, acl=["#"])

    @app.get("/many", dependencies=[Depends(require_all_acls("a", "b", "c"))])
    async def many(
        user: Annotated[AuthUser, Depends(require_acl("d"))],
        same: Annotated[AuthUser, Depends(require_any_acl("e", "f"))],
    ) -> list[str]:
        return [user.auth_id, same.auth_id]

    assert (await http.get("/many")).json() == ["ada", "ada"]
    assert world.calls == 1
    proof.cost("request that requires six permissions", auth_calls=1)


async def test_a_decision_is_made_anew_for_each_request(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    add_route(app, "/users", require_acl("users.read"))
    for acl, expected in ((["#"], 200), ([], 403), (["users.read"], 200)):
        world.log_in(HIDDEN, acl=acl)
        assert await status(http, "/users") == expected


async def test_a_route_that_is_not_checked_at_registration_is_open_to_nobody(
    app: FastAPI, world: FakeWorld
) -> None:
    world.log_in(HIDDEN, acl=["#"])
    router = APIRouter()
    add_route(router, "/users", require_acl("users.read"))
    app.include_router(router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as http:
        with pytest.raises(TypeError, match="route_class=AclRoute"):
            await http.get("/users", headers=HEADERS)


@pytest.mark.parametrize("template", ["inc.{x}", "inc.{y}", "inc"])
async def test_what_a_router_is_included_with_is_not_checked_and_lets_nobody_pass(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld, template: str
) -> None:
    world.log_in(HIDDEN, acl=["#", "!inc.7"])
    router = APIRouter(route_class=AclRoute)

    @router.get("/inc/{x}")
    async def show(x: int) -> int:
        return x

    app.include_router(router, dependencies=[Depends(require_acl(template))])
    for path in ("/inc/7", "/inc/007", "/inc/8"):
        with pytest.raises(TypeError, match="require it on a route or router"):
            await http.get(path)


async def test_another_header_is_a_choice_of_the_service(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld
) -> None:
    bearer = TokenAuth("Authorization", world.clock).user
    add_route(app, "/users", require_acl("users.read", user=bearer))
    world.log_in(HIDDEN, acl=["users.read"])

    headers = {"Authorization": f"Bearer {HIDDEN}"}
    assert (await http.get("/users", headers=headers)).status_code == 200
    assert await status(http, "/users") == 401
    document = (await http.get("/openapi.json")).json()
    assert document["paths"]["/users"]["get"]["security"] == [{"Authorization": []}]


async def connect(app: FastAPI, path: str) -> list[dict[str, Any]]:
    """Return what the application sends to a websocket that connects."""
    incoming: list[dict[str, Any]] = [{"type": "websocket.connect"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    scope = {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "headers": [(b"x-auth-token", HIDDEN.encode())],
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, receive, send)
    return sent


async def test_a_websocket_is_refused_before_it_is_accepted(
    app: FastAPI, world: FakeWorld
) -> None:
    @app.websocket("/calls/{call}")
    async def listen(
        websocket: WebSocket,
        user: Annotated[AuthUser, Depends(require_acl("calls.{call}"))],
    ) -> None:
        await websocket.accept()
        await websocket.send_text(user.auth_id)

    world.log_in(HIDDEN, acl=["calls.7"])

    accepted, greeting = await connect(app, "/calls/7")
    assert (accepted["type"], greeting["text"]) == ("websocket.accept", "ada")
    refusal, *_ = await connect(app, "/calls/8")
    assert refusal["type"] == "websocket.http.response.start"
    assert refusal["status"] == 403


@pytest.mark.parametrize("included", [False, True])
async def test_a_websocket_whose_text_the_handler_reads_otherwise_is_open_to_nobody(
    app: FastAPI, world: FakeWorld, *, included: bool
) -> None:
    router = APIRouter() if included else app.router
    required = [Depends(require_acl("calls.{call}"))]

    @router.websocket("/calls/{call}", dependencies=required)
    async def listen(websocket: WebSocket, call: int) -> None:
        raise NotImplementedError

    @router.websocket("/converted/{call:int}", dependencies=required)
    async def convert(websocket: WebSocket, call: int) -> None:
        await websocket.accept()
        await websocket.send_text(f"{call}")

    @router.websocket("/other/{number}", dependencies=required)
    async def misspell(websocket: WebSocket, number: str) -> None:
        raise NotImplementedError

    if included:
        app.include_router(router, prefix="/v1")
    prefix = "/v1" if included else ""
    world.log_in(HIDDEN, acl=["#", "!calls.7"])
    for text in ("007", "7", "8"):
        with pytest.raises(ValueError, match="convert 'call' in the path"):
            await connect(app, f"{prefix}/calls/{text}")
        with pytest.raises(ValueError, match="has no parameter 'call'"):
            await connect(app, f"{prefix}/other/{text}")
    for text in ("007", "7"):
        refusal, *_ = await connect(app, f"{prefix}/converted/{text}")
        assert refusal["status"] == 403
    _, greeting = await connect(app, f"{prefix}/converted/8")
    assert greeting["text"] == "8"


async def test_a_websocket_of_a_router_that_is_included_with_a_requirement_is_checked(
    app: FastAPI, world: FakeWorld
) -> None:
    router = APIRouter()

    @router.websocket("/calls/{call}")
    async def listen(websocket: WebSocket, call: int) -> None:
        raise NotImplementedError

    app.include_router(router, dependencies=[Depends(require_acl("calls.{call}"))])
    world.log_in(HIDDEN, acl=["#", "!calls.7"])
    with pytest.raises((ValueError, TypeError)):
        await connect(app, "/calls/007")


def add_naive_routes(app: FastAPI) -> None:
    """Add routes with the naive dependency."""
    require = require_acl_naive.require_all_acls

    @app.delete(
        "/users/{user_id}", dependencies=[Depends(require("users.{user_id}.delete"))]
    )
    async def delete(user_id: int) -> int:
        return user_id

    @app.delete(
        "/logins/{name}", dependencies=[Depends(require("logins.{name}.delete"))]
    )
    async def log_out(name: str) -> str:
        return name

    @app.get("/open", dependencies=[Depends(require())])
    async def show() -> str:
        return "shown"


async def test_a_naive_denial_misses_a_number_written_otherwise(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld, proof: Proof
) -> None:
    add_naive_routes(app)
    world.log_in(HIDDEN, acl=["#", "!users.7.delete", "!logins.*.delete"])
    assert await status(http, "/users/7", "DELETE") == 403
    assert (await http.delete("/users/007")).json() == 7
    proof.breaks("User 7 must not be deleted", "`DELETE /users/007` deletes user 7")
    assert await status(http, "/logins/john.doe", "DELETE") == 200
    proof.breaks("Nobody may log others out", "`DELETE /logins/john.doe` does")


async def test_a_naive_refusal_lists_the_callers_grants(
    app: FastAPI, http: httpx.AsyncClient, world: FakeWorld, proof: Proof
) -> None:
    add_naive_routes(app)
    world.log_in(HIDDEN, acl=["calls.#"])
    assert "calls.#" in (await http.delete("/users/7")).text
    proof.breaks("A request is refused", "the answer lists the caller's grants")
    assert await status(http, "/open") == 200
    proof.breaks("The list of permissions is empty", "every user passes")
