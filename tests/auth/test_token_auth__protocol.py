"""The fake, the client of a real service and a cache keep the same promises."""

from datetime import UTC, timedelta
from uuid import UUID, uuid4

import pytest
from fakeredis import FakeAsyncRedis

from snippets.auth.token_auth import (
    AuthUnavailableError,
    FakeAuthClient,
    InvalidTokenError,
    PermissionDeniedError,
)
from snippets.auth.token_cache import TokenCache
from tests.support.auth_clients import FakeWorld, ServiceWorld, World
from tests.support.auth_service import ACME, GLOBEX, START, Clock

HIDDEN = "b0a1c2d3-secret-of-ada"


class CachedWorld(ServiceWorld):
    """Behind a cache of a service."""

    def __post_init__(self) -> None:
        """Put a cache that keeps nothing before the client."""
        super().__post_init__()
        self.client = TokenCache(
            client=self.client,
            redis=FakeAsyncRedis,  # another each time, so nothing is found there
            namespace="protocol",
            clock=self.clock,
        )


@pytest.fixture(params=[FakeWorld, ServiceWorld, CachedWorld])
def world(request: pytest.FixtureRequest) -> World:
    """The fake, a service, or a cache before it."""
    made: World = request.param()
    return made


async def test_a_client_says_whose_token_it_is(world: World) -> None:
    world.log_in(HIDDEN, "ada", ["users.me.#", "!users.me.delete"], life=600)

    user = await world.client.get_user(HIDDEN)

    assert user.token.get_secret_value() == HIDDEN
    assert (user.auth_id, user.session_uuid) == ("ada", "session-of-ada")
    assert (user.issued_at, user.issued_at.tzinfo) == (START, UTC)
    assert (user.expires_at - START, user.expires_at.tzinfo) == (
        timedelta(minutes=10),
        UTC,
    )
    assert user.tenant_uuid == UUID(ACME)
    assert user.acl == ("users.me.#", "!users.me.delete")
    assert user.metadata == {"uuid": "ada", "tenant_uuid": ACME}


async def test_5000_grants_are_accepted(world: World) -> None:
    acl = [f"confd.users.{number}.*.read" for number in range(5000)]
    world.log_in(HIDDEN, acl=acl)

    user = await world.client.get_user(HIDDEN)

    assert user.acl == tuple(acl)
    assert user.access.matches_required_access("confd.users.4999.lines.read")
    await world.client.check(HIDDEN, scope="confd.users.4999.lines.read")


async def test_an_unknown_a_truncated_and_a_revoked_token_are_invalid(
    world: World,
) -> None:
    world.log_in(HIDDEN)
    await world.client.get_user(HIDDEN)
    world.log_in("other")
    world.revoke("other")

    for token in ("unknown", HIDDEN[:-1], f"{HIDDEN}0", HIDDEN.upper(), "other"):
        with pytest.raises(InvalidTokenError):
            await world.client.get_user(token)
        with pytest.raises(InvalidTokenError):
            await world.client.check(token)


async def test_a_token_is_invalid_from_the_moment_at_which_it_ends(
    world: World,
) -> None:
    world.log_in(HIDDEN, life=60)
    world.clock.move(59.999)
    await world.client.get_user(HIDDEN)
    world.clock.move(0.001)

    with pytest.raises(InvalidTokenError):
        await world.client.get_user(HIDDEN)
    with pytest.raises(InvalidTokenError):
        await world.client.check(HIDDEN)


async def test_a_check_tells_a_missing_permission_from_an_invalid_token(
    world: World,
) -> None:
    world.log_in(HIDDEN, "ada", ["users.me.edit", "!users.me.update.name"])

    await world.client.check(HIDDEN)
    await world.client.check(HIDDEN, scope="users.ada.update")
    for scope in ("users.grace.update", "users.ada.update.name", "", "users.ada"):
        with pytest.raises(PermissionDeniedError):
            await world.client.check(HIDDEN, scope=scope)


async def test_a_token_may_act_for_its_own_and_its_visible_tenants(
    world: World,
) -> None:
    world.log_in(HIDDEN, tenants=[ACME, GLOBEX])
    world.log_in("other", "grace", tenants=[GLOBEX])

    await world.client.check(HIDDEN, tenant=UUID(ACME))
    await world.client.check(HIDDEN, tenant=UUID(GLOBEX))
    for token, tenant in (("other", UUID(ACME)), (HIDDEN, uuid4())):
        with pytest.raises(PermissionDeniedError):
            await world.client.check(token, tenant=tenant)


async def test_the_tenant_of_a_grant_is_the_tokens_own_for_whichever_it_acts(
    world: World,
) -> None:
    world.log_in(HIDDEN, acl=["c.my_tenant", "d"], tenants=[ACME, GLOBEX])

    for tenant in (None, UUID(ACME), UUID(GLOBEX)):
        await world.client.check(HIDDEN, scope="d", tenant=tenant)
        await world.client.check(HIDDEN, scope=f"c.{ACME}", tenant=tenant)
        for scope in (f"c.{GLOBEX}", "e"):
            with pytest.raises(PermissionDeniedError):
                await world.client.check(HIDDEN, scope=scope, tenant=tenant)
    with pytest.raises(PermissionDeniedError):
        await world.client.check(HIDDEN, scope="d", tenant=uuid4())


async def test_while_nobody_can_say_a_token_is_neither_valid_nor_invalid(
    world: World,
) -> None:
    world.log_in(HIDDEN)
    world.go_down()

    for token in (HIDDEN, "unknown"):
        with pytest.raises(AuthUnavailableError):
            await world.client.get_user(token)
        with pytest.raises(AuthUnavailableError):
            await world.client.check(token)


async def test_no_answer_shows_the_token(world: World) -> None:
    world.log_in(HIDDEN)
    user = await world.client.get_user(HIDDEN)
    world.revoke(HIDDEN)
    with pytest.raises(InvalidTokenError) as invalid:
        await world.client.get_user(HIDDEN)
    world.go_down()
    with pytest.raises(AuthUnavailableError) as unavailable:
        await world.client.get_user(HIDDEN)

    shown = [user, user.model_dump_json(), user.model_dump(), invalid, unavailable]
    for one in (*shown, world.client):
        assert HIDDEN not in f"{one!r} {one}"


async def test_a_persona_has_a_name_for_its_id_and_token_and_lasts_a_day() -> None:
    clock = Clock()
    fake = FakeAuthClient("development", clock)
    fake.add_persona("ada", "users.me.#", tenant=UUID(ACME))
    fake.add_persona("root", "#")

    user = await fake.get_user("ada")
    assert (user.auth_id, user.tenant_uuid, user.acl) == (
        "ada",
        UUID(ACME),
        ("users.me.#",),
    )
    await fake.check("ada", scope="users.ada.read", tenant=UUID(ACME))
    with pytest.raises(PermissionDeniedError):
        await fake.check("ada", scope="users.root.read")
    with pytest.raises(PermissionDeniedError):
        await fake.check("root", tenant=UUID(ACME))
    await fake.check("root", scope="anything")
    clock.move(86_400)
    with pytest.raises(InvalidTokenError):
        await fake.get_user("ada")


def test_the_fake_is_a_client_of_no_real_environment() -> None:
    for environment in ("production", "staging", "prod", "", "Development", "tests"):
        with pytest.raises(ValueError, match="no made-up users in"):
            FakeAuthClient(environment)
    assert not FakeAuthClient("development").is_down
