"""A request is for the token's tenant, or for one that the token may see."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated
from uuid import UUID

import httpx
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Request,
    WebSocket,
)
from fastapi.responses import StreamingResponse
from starlette.types import Message

from catalogue.plugin import Proof
from snippets.auth import tenant_resolution_naive as naive
from snippets.auth.current_user import (
    TokenAuth,
    get_auth_client,
    get_current_user,
)
from snippets.auth.tenancy import NoTenantError, current_tenant, set_tenant
from snippets.auth.tenant_resolution import (
    ActiveTenants,
    TenantHeader,
    get_tenant,
    require_visible,
)
from snippets.auth.token_auth import AuthClient, AuthUser, PermissionDeniedError
from tests.support.auth_clients import FakeWorld
from tests.support.auth_service import ACME, GLOBEX

STRANGER = "2c3b4d5e-0000-4000-8000-00000000000c"
NOBODY = "2c3b4d5e-0000-4000-8000-00000000000d"
LONG = 100 * 365 * 86400.0

Tenant = Annotated[UUID, Depends(get_tenant)]


@dataclass
class Service:
    """An application whose handlers tell for whom they run."""

    world: FakeWorld = field(default_factory=FakeWorld)
    suspended: set[UUID] = field(default_factory=set)
    asked: list[UUID] = field(default_factory=list)
    told: list[UUID] = field(default_factory=list)
    time: float = 0.0
    app: FastAPI = field(default_factory=FastAPI)

    def __post_init__(self) -> None:
        """Let Ada's token be ACME's and see GLOBEX; Bob's is GLOBEX's alone.

        Eve's sees ACME and STRANGER, and Carl's none of them.
        """
        self.world.log_in("ada", "ada", tenants=(ACME, GLOBEX), life=LONG)
        self.world.log_in("bob", "bob", tenants=(GLOBEX,), life=LONG)
        self.world.log_in("eve", "eve", tenants=(ACME, STRANGER), life=LONG)
        self.world.log_in("carl", "carl", tenants=(NOBODY,), life=LONG)
        self.active = ActiveTenants(self.load, size=2, clock=lambda: self.time)
        self.app.state.auth_client = self.world.client
        self.app.state.active_tenants = self.active
        self.app.state.told = self.told
        self.app.include_router(router)

    async def load(self, tenant: UUID) -> bool:
        """Say whether a tenant is active."""
        self.asked.append(tenant)
        return tenant not in self.suspended

    async def ask(
        self, *tenants: str, caller: str = "ada", path: str = "/async"
    ) -> httpx.Response:
        """Send a request with a token, and a header for each tenant."""
        headers = [("X-Auth-Token", caller)]
        headers += [("Accent-Tenant", tenant) for tenant in tenants]
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://pbx"
        ) as client:
            return await client.get(path, headers=headers)


router = APIRouter()
GIVEN = [Depends(get_tenant)]


def in_sync_dependency(_: Tenant) -> UUID:
    return current_tenant()


async def in_async_dependency(_: Tenant) -> UUID:
    return current_tenant()


@router.get("/value")
async def value(tenant: Tenant) -> UUID:
    return tenant


@router.get("/async", dependencies=GIVEN)
async def in_async_handler() -> UUID:
    return current_tenant()


@router.get("/sync", dependencies=GIVEN)
def in_sync_handler() -> UUID:
    return current_tenant()


@router.get("/async-dependency")
async def by_async(seen: Annotated[UUID, Depends(in_async_dependency)]) -> UUID:
    return seen


@router.get("/sync-dependency")
async def by_sync(seen: Annotated[UUID, Depends(in_sync_dependency)]) -> UUID:
    return seen


@router.get("/task", dependencies=GIVEN)
async def in_task() -> UUID:
    return await asyncio.create_task(in_async_handler())


@router.get("/stream", dependencies=GIVEN)
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield f'"{current_tenant()}"'

    return StreamingResponse(parts())


@router.get("/background", dependencies=GIVEN)
async def background(request: Request, tasks: BackgroundTasks) -> UUID:
    told: list[UUID] = request.app.state.told

    async def note_async() -> None:
        told.append(current_tenant())

    def note_sync() -> None:
        told.append(current_tenant())

    tasks.add_task(note_async)
    tasks.add_task(note_sync)
    return current_tenant()


@router.get("/fails", dependencies=GIVEN)
async def fails() -> None:
    raise PermissionDeniedError


@router.get("/without")
async def without() -> str:
    try:
        return str(current_tenant())
    except NoTenantError:
        return "nobody"


@router.get("/many")
async def many(
    connection: Request,
    client: Annotated[AuthClient, Depends(get_auth_client)],
    user: Annotated[AuthUser, Depends(get_current_user)],
) -> None:
    eve, carl = await client.get_user("eve"), await client.get_user("carl")
    for _ in range(3):
        await require_visible(connection, client, user, UUID(GLOBEX))
        await require_visible(connection, client, eve, UUID(STRANGER))
        for caller, tenant in ((carl, GLOBEX), (carl, STRANGER), (user, STRANGER)):
            with pytest.raises(PermissionDeniedError):
                await require_visible(connection, client, caller, UUID(tenant))


@router.websocket("/calls", dependencies=GIVEN)
async def calls(socket: WebSocket) -> None:
    await socket.accept()
    async for _ in socket.iter_text():
        await socket.send_text(str(current_tenant()))


@pytest.fixture
def service() -> Service:
    """The application, freshly started."""
    return Service()


async def test_it_is_the_tokens_tenant_or_another_that_the_token_sees(
    service: Service,
) -> None:
    assert (await service.ask()).json() == ACME
    assert (await service.ask(ACME)).json() == ACME
    assert (await service.ask(GLOBEX)).json() == GLOBEX
    assert (await service.ask(GLOBEX.upper())).json() == GLOBEX
    assert (await service.ask(caller="bob")).json() == GLOBEX


async def test_another_tenant_is_403_whether_there_is_such_a_tenant_or_not(
    service: Service,
) -> None:
    service.world.log_in("eve", "eve", tenants=(STRANGER,), life=LONG)
    answers = [await service.ask(named, caller="bob") for named in (ACME, NOBODY)]
    answers.append(await service.ask(STRANGER))
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.text for answer in answers}) == 1
    assert not service.asked  # nothing but the auth service


MALFORMED = [
    "",
    "acme",
    "' OR 1=1 --",
    ACME.replace("-", ""),
    f"{{{ACME}}}",
    f"urn:uuid:{ACME}",
    f"{ACME},{GLOBEX}",
    ACME.replace("2", "²"),
    ACME.replace("0000", "0_00"),
    "../" * 1000,
]


@pytest.mark.parametrize("named", MALFORMED)
async def test_a_header_that_is_no_uuid_is_400_and_nobody_is_asked(
    service: Service, named: str
) -> None:
    transport = httpx.ASGITransport(service.app)
    headers = [(b"X-Auth-Token", b"ada"), (b"Accent-Tenant", named.encode())]
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        answer = await client.get("/async", headers=headers)
    assert answer.status_code == 400
    assert named not in answer.text or not named
    assert (service.world.calls, service.asked) == (1, [])


async def test_a_header_that_is_sent_twice_is_400(service: Service) -> None:
    for named in ((ACME, ACME), (ACME, GLOBEX)):
        assert (await service.ask(*named)).status_code == 400
    assert not service.asked


async def test_a_token_of_no_tenant_has_to_name_one_that_it_sees(
    service: Service,
) -> None:
    user = await service.world.client.get_user("ada")
    service.world.client.add(user.model_copy(update={"tenant_uuid": None}), UUID(ACME))
    assert (await service.ask()).status_code == 400
    assert (await service.ask(ACME)).json() == ACME
    assert (await service.ask(GLOBEX)).status_code == 403


async def test_without_a_token_or_an_answer_there_is_no_tenant(
    service: Service,
) -> None:
    assert (await service.ask(ACME, caller="unknown")).status_code == 401
    service.world.go_down()
    answer = await service.ask(GLOBEX)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


PLACES = [
    "/value",
    "/async",
    "/sync",
    "/async-dependency",
    "/sync-dependency",
    "/task",
    "/stream",
    "/background",
]


@pytest.mark.parametrize("path", PLACES)
async def test_whatever_a_request_calls_sees_its_tenant_and_nothing_after_it(
    service: Service, path: str
) -> None:
    assert (await service.ask(GLOBEX, path=path)).json() == GLOBEX
    assert service.told == [UUID(GLOBEX)] * 2 * (path == "/background")
    # The client of this test runs the application in this very task.
    with pytest.raises(NoTenantError):
        current_tenant()
    assert (await service.ask(path="/without")).json() == "nobody"


async def test_the_tenant_of_a_failed_request_is_forgotten_too(
    service: Service,
) -> None:
    assert (await service.ask(path="/fails")).status_code == 403
    with pytest.raises(NoTenantError):
        current_tenant()


async def test_fifty_requests_side_by_side_keep_their_tenants_apart(
    service: Service,
) -> None:
    everyone = asyncio.Barrier(50)

    @service.app.get("/slow", dependencies=[Depends(get_tenant)])
    async def slow() -> tuple[UUID, UUID]:
        before = current_tenant()
        await everyone.wait()
        return before, current_tenant()

    callers = [("ada", ACME), ("ada", GLOBEX), ("bob", GLOBEX)]
    asked = [callers[n % 3] for n in range(50)]
    answers = await asyncio.gather(
        *(service.ask(tenant, caller=token, path="/slow") for token, tenant in asked)
    )
    assert [answer.json() for answer in answers] == [[t, t] for _, t in asked]


async def converse(app: FastAPI, token: str, tenant: str) -> list[Message]:
    """Open a websocket, send two texts, close it; return what was sent back."""
    texts = ({"type": "websocket.receive", "text": "whose?"} for _ in range(2))
    closed = {"type": "websocket.disconnect", "code": 1000}
    incoming: Iterator[Message] = iter([{"type": "websocket.connect"}, *texts, closed])
    sent: list[Message] = []
    headers = {"X-Auth-Token": token, "Accent-Tenant": tenant}
    scope = {
        "type": "websocket",
        "path": "/calls",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "extensions": {"websocket.http.response": {}},
    }

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_websocket_keeps_its_tenant_from_the_first_message_to_the_last(
    service: Service,
) -> None:
    accepted, *answers = await converse(service.app, "ada", GLOBEX)
    assert accepted["type"] == "websocket.accept"
    assert [answer["text"] for answer in answers] == [GLOBEX, GLOBEX]
    refused, *_ = await converse(service.app, "bob", ACME)
    assert refused["status"] == 403


async def test_a_job_that_outlives_the_request_says_whose_it_is() -> None:
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    handled: list[UUID] = []

    async def consume() -> None:  # a task that was started before any request
        while True:
            job = await queue.get()
            with set_tenant(UUID(job["tenant_id"])):
                handled.append(current_tenant())
            with pytest.raises(NoTenantError):
                current_tenant()
            queue.task_done()

    consumer = asyncio.create_task(consume())
    for tenant in (ACME, GLOBEX):
        with set_tenant(UUID(tenant)):
            await queue.put({"tenant_id": str(current_tenant())})
    await queue.join()
    consumer.cancel()
    assert handled == [UUID(ACME), UUID(GLOBEX)]


async def test_a_tenant_is_refused_from_the_event_that_suspends_it(
    service: Service,
) -> None:
    for _ in range(2):
        assert (await service.ask()).status_code == 200
    assert service.asked == [UUID(ACME)]
    service.suspended.add(UUID(ACME))
    assert (await service.ask()).status_code == 200  # nobody has told
    service.active.forget(UUID(ACME))
    for _ in range(2):
        answer = await service.ask()
        assert (answer.status_code, answer.json()["detail"]) == (
            403,
            "the tenant is not active",
        )
    assert len(service.asked) == 2
    service.suspended.clear()
    service.active.forget(UUID(ACME))
    assert (await service.ask()).status_code == 200


async def test_without_an_event_a_tenant_is_refused_after_the_time_to_live(
    service: Service,
) -> None:
    assert await service.active.is_active(UUID(ACME))
    service.suspended.add(UUID(ACME))
    service.time = 59.9
    assert await service.active.is_active(UUID(ACME))
    service.time = 60.0
    assert not await service.active.is_active(UUID(ACME))


async def test_an_answer_is_as_old_as_its_question() -> None:
    time, asked = 0.0, []

    async def load(tenant: UUID) -> bool:
        nonlocal time
        asked.append(tenant)
        time += 30  # while the answer, true or not any more, is on its way
        return True

    active = ActiveTenants(load, ttl=60, clock=lambda: time)
    await active.is_active(UUID(ACME))
    time = 59.9
    await active.is_active(UUID(ACME))
    assert len(asked) == 1
    time = 60.0
    await active.is_active(UUID(ACME))
    assert len(asked) == 2


async def test_nobody_goes_by_an_answer_that_is_older_than_an_event() -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()
    answers = [True, False]

    async def load(_: UUID) -> bool:
        answer = answers.pop(0)
        asked.set()
        await may_answer.wait()
        return answer

    active = ActiveTenants(load)
    before = asyncio.create_task(active.is_active(UUID(ACME)))
    await asked.wait()
    active.forget(UUID(ACME))
    may_answer.set()
    assert not await before
    assert not answers
    assert not await active.is_active(UUID(ACME))


async def test_an_event_of_another_tenant_asks_about_nobody_again() -> None:
    asked: list[UUID] = []

    async def load(tenant: UUID) -> bool:
        asked.append(tenant)
        if len(asked) < 4:
            active.forget(UUID(GLOBEX))
        return True

    active = ActiveTenants(load)
    assert await active.is_active(UUID(ACME))
    assert asked == [UUID(ACME)]


async def test_no_more_tenants_are_remembered_than_was_said(service: Service) -> None:
    many = [UUID(one) for one in (ACME, GLOBEX, STRANGER)]
    for tenant in (*many, many[1], many[0]):
        await service.active.is_active(tenant)
    assert service.asked == [*many, many[0]]  # of two, the oldest answer made room


async def test_an_error_of_the_loader_is_raised_and_not_remembered() -> None:
    answers: list[bool | Exception] = [ConnectionError(), True]

    async def load(_: UUID) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    active = ActiveTenants(load)
    with pytest.raises(ConnectionError):
        await active.is_active(UUID(ACME))
    assert await active.is_active(UUID(ACME))


async def test_visible_tenants_are_asked_for_once_per_request_for_each_token(
    service: Service, proof: Proof
) -> None:
    assert (await service.ask(path="/many")).status_code == 200
    # Three of the calls told who Ada, Eve and Carl are.
    assert service.world.calls - 3 == 5
    proof.cost("five pairs of token and tenant, each checked thrice", auth_calls=5)


@pytest.mark.parametrize(
    ("header", "challenge"), [("Authorization", "Bearer"), ("X-Auth-Token", "APIKey")]
)
async def test_a_token_that_ends_while_a_tenant_is_asked_about_is_told_how_to_log_in(
    service: Service, header: str, challenge: str
) -> None:
    world = service.world

    class Ending:
        """A client whose tokens end as soon as it is known whose they are."""

        async def get_user(self, token: str) -> AuthUser:
            """Return the user, and log it out."""
            user = await world.client.get_user(token)
            world.revoke(token)
            return user

        check = world.client.check

    service.app.state.auth_client = Ending()
    auth = TokenAuth(header, world.clock)
    tenants = TenantHeader(user=auth.user)

    @service.app.get("/ending")
    async def show(tenant: Annotated[UUID, Depends(tenants.tenant)]) -> UUID:
        raise NotImplementedError(tenant)

    transport = httpx.ASGITransport(service.app)
    token = "Bearer ada" if header == "Authorization" else "ada"
    headers = {header: token, "Accent-Tenant": GLOBEX}
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        answer = await client.get("/ending", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenge


async def test_the_tokens_own_tenant_costs_no_call(
    service: Service, proof: Proof
) -> None:
    calls: dict[str, int] = {}
    for name, named in (("none", ()), ("own", (ACME,)), ("other", (GLOBEX,))):
        before = service.world.calls
        assert (await service.ask(*named)).status_code == 200
        calls[name] = service.world.calls - before - 1  # one is for the token itself
    assert calls == {"none": 0, "own": 0, "other": 1}
    proof.cost("a request whose header is the token's own tenant", auth_calls=0)
    proof.cost("a request for another tenant that the token sees", auth_calls=1)


async def test_the_name_of_the_header_is_a_parameter_and_openapi_shows_it(
    service: Service,
) -> None:
    wazo = TenantHeader("Wazo-Tenant").tenant

    @service.app.get("/wazo")
    async def show(tenant: Annotated[UUID, Depends(wazo)]) -> UUID:
        return tenant

    transport = httpx.ASGITransport(service.app)
    headers = {"X-Auth-Token": "ada", "Wazo-Tenant": GLOBEX, "Accent-Tenant": "x"}
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        assert (await client.get("/wazo", headers=headers)).json() == GLOBEX
    operation = service.app.openapi()["paths"]["/wazo"]["get"]
    (header,) = operation["parameters"]
    assert (header["in"], header["name"], header["required"]) == (
        "header",
        "Wazo-Tenant",
        False,
    )
    assert operation["security"] == [{"X-Auth-Token": []}]


async def test_the_naive_version_lets_a_client_choose_and_a_handler_forget(
    service: Service, proof: Proof
) -> None:
    extensions = {UUID(ACME): "1001", UUID(GLOBEX): "2002"}

    @service.app.get("/extensions")
    async def show(tenant: Annotated[UUID, Depends(naive.get_tenant)]) -> str:
        return extensions[tenant]

    @service.app.get("/context", dependencies=[Depends(naive.get_tenant)])
    async def seen() -> UUID | None:
        return naive.current_tenant.get()

    user = await service.world.client.get_user("ada")
    service.world.client.add(user.model_copy(update={"tenant_uuid": None}), UUID(ACME))
    transport = httpx.ASGITransport(service.app)
    headers = {"X-Auth-Token": "ada", "X-Tenant-ID": GLOBEX}
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        assert (await client.get("/extensions", headers=headers)).json() == "2002"
        assert (await client.get("/context", headers=headers)).json() is None
    proof.breaks(
        "a user of one tenant, whose token names none, sent the id of another",
        "it was answered with the other's extension",
    )
    proof.breaks(
        "an async handler read the context variable that a sync dependency had set",
        "it was None: the dependency ran in a thread with a copy of the context",
    )
