"""A user hides its token, and three errors are never taken for one another."""

import logging
from datetime import UTC, timedelta
from uuid import UUID

import pytest
from pydantic import SecretStr, ValidationError

from catalogue.plugin import Proof
from snippets.auth import token_auth_naive
from snippets.auth.acl import AccessCheck
from snippets.auth.token_auth import (
    TOKEN,
    AuthUnavailableError,
    AuthUser,
    FakeAuthClient,
    InvalidTokenError,
    PermissionDeniedError,
    utc_now,
)
from tests.support.auth_service import ACME, START

HIDDEN = "b0a1c2d3-secret-of-ada"


def ada(*acl: str) -> AuthUser:
    """Return a user with these grants."""
    return AuthUser(
        token=SecretStr(HIDDEN),
        auth_id="ada",
        session_uuid="s1",
        issued_at=START,
        expires_at=START + timedelta(hours=1),
        tenant_uuid=UUID(ACME),
        acl=acl,
    )


def test_each_error_has_its_status_and_says_what_the_client_may_do() -> None:
    invalid = InvalidTokenError("Bearer")
    denied = PermissionDeniedError("requires users.read")
    unavailable = AuthUnavailableError(retry_after=7)

    assert (invalid.status_code, denied.status_code) == (401, 403)
    assert unavailable.status_code == 503
    assert invalid.headers == {"WWW-Authenticate": "Bearer"}
    assert denied.detail == "requires users.read"
    assert unavailable.headers == {"Retry-After": "7"}
    assert AuthUnavailableError().headers == {"Retry-After": "5"}


def test_no_error_is_a_kind_of_another() -> None:
    kinds = [InvalidTokenError, PermissionDeniedError, AuthUnavailableError]
    for one in kinds:
        assert [issubclass(one, other) for other in kinds].count(True) == 1


def test_a_user_does_not_show_its_token(caplog: pytest.LogCaptureFixture) -> None:
    user = ada("users.#")
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("calls").info("called by %s %r", user, user)

    for shown in (caplog.text, user.model_dump_json(), str(user.model_dump())):
        assert HIDDEN not in shown
        assert "users.#" in shown
    assert user.token.get_secret_value() == HIDDEN


def test_a_user_that_cannot_be_made_does_not_show_what_it_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        AuthUser.model_validate({"token": [HIDDEN], "auth_id": {HIDDEN: HIDDEN}})
    assert HIDDEN not in str(caught.value)


def test_a_user_cannot_be_changed() -> None:
    user = ada()
    with pytest.raises(ValidationError, match="frozen"):
        user.__setattr__("acl", ("#",))
    assert user.acl == ()


def test_a_time_without_an_offset_is_refused() -> None:
    fields = dict(ada())
    fields["expires_at"] = START.replace(tzinfo=None)
    with pytest.raises(ValidationError, match="timezone"):
        AuthUser(**fields)


def test_a_user_decides_by_its_own_ids() -> None:
    access = ada("a.me", "b.my_session", "c.my_tenant").access
    assert type(access) is AccessCheck

    for required in ("a.ada", "b.s1", f"c.{ACME}"):
        assert access.matches_required_access(required)
    for required in ("a.s1", "b.ada", "c.ada", "c.None"):
        assert not access.matches_required_access(required)
    nowhere = ada("c.my_tenant").model_copy(update={"tenant_uuid": None}).access
    assert not nowhere.matches_required_access("c.None")
    assert nowhere.matches_required_access("c.my_tenant")


@pytest.mark.parametrize(
    "token",
    [
        "6c84fb90-12c4-11e1-840d-7b25c5ee775a",
        "eyJhbGciOiJkaXIifQ..48V1_ALb6US04U3b.5eym8TW_c8SuK0lt.XFBoMYUZodet",
        "YWxhZGRpbjpvcGVu+/c2VzYW1l==",
        "~a",
        "a" * 4096,
    ],
)
def test_tokens_of_rfc_6750_are_tokens(token: str) -> None:
    assert TOKEN.fullmatch(token)


@pytest.mark.parametrize(
    "token",
    [
        *("", " ", "a b", "a,b", "a\n", "a\0", "a\x7f", "a\xe9", "a\N{SNOWMAN}"),
        *("a=b", "===", "a===", "?", "a?b", "a#b", "a%2Fb", "a;b", "a\\b", '"a"'),
        *(".", "..", "a/..", "../a", "a/../b", "a/./b", "./a", "a" * 4097),
    ],
)
def test_what_is_no_token_or_could_name_another_resource_is_not_one(
    token: str,
) -> None:
    assert not TOKEN.fullmatch(token)


def test_the_clock_is_in_utc() -> None:
    assert utc_now().tzinfo is UTC


async def test_revoking_what_the_fake_does_not_know_does_nothing() -> None:
    fake = FakeAuthClient("test", lambda: START)
    fake.add(ada())
    fake.revoke("unknown")
    assert await fake.get_user(HIDDEN) == ada()


def naive_user() -> token_auth_naive.AuthUser:
    """Return a user as written first."""
    end = START + timedelta(hours=1)
    return token_auth_naive.AuthUser(HIDDEN, "ada", end, ["#"])


def test_a_naive_user_shows_its_token(
    caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    logging.getLogger("calls").warning("called by %s", naive_user())
    assert HIDDEN in caplog.text
    proof.breaks("The caller is logged", "the log has the token")


async def test_a_naive_client_takes_an_outage_for_a_bad_token(proof: Proof) -> None:
    fake = token_auth_naive.FakeAuthClient("test", {HIDDEN: naive_user()})
    fake.is_down = True
    assert await fake.get_user(HIDDEN) is await fake.get_user("unknown") is None
    proof.breaks("The auth service is down", "every token is as good as unknown")


async def test_a_naive_fake_runs_wherever_it_is_not_told_otherwise(
    proof: Proof,
) -> None:
    fake = token_auth_naive.FakeAuthClient("prod", {"admin": naive_user()})
    assert await fake.get_user("admin")
    proof.breaks("The environment is called `prod`", "a made-up user can log in")
