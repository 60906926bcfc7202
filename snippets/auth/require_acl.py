"""Require permissions of the caller, route by route, in FastAPI.

`require_acl("users.{user_id}.read")` is a dependency that answers 403 unless a grant of
the caller matches, and otherwise returns the caller. A placeholder stands for the path
parameter of that name, with `_` for each `.`.

Routes are made by `AclRoute`. It shows in OpenAPI what a route requires, and refuses to
register a route with a placeholder that its path does not have, or whose text is not
what the handler is given: a handler that takes `007` for 7 would not be the one that a
denial of `users.7.delete` speaks of. A websocket is checked so when it connects. What
`include_router` adds comes too late to be checked, and lets nobody pass.
"""

import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from inspect import Parameter, Signature
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from snippets.auth.current_user import get_current_user
from snippets.auth.token_auth import AuthUser, PermissionDeniedError

EXTENSION = "x-required-acl"
"""What OpenAPI calls the list of a route's requirements."""

GetUser = Callable[..., Awaitable[AuthUser]]
KINDS = {
    "StringConvertor": {"str"},
    "PathConvertor": {"str"},
    "IntegerConvertor": {"int", "enum", "literal"},
    "FloatConvertor": {"float"},
    "UUIDConvertor": {"uuid"},
}
"""What pydantic calls the types which leave unchanged what a convertor makes."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class Requirement:
    """A dependency that lets a caller pass who has all or any of these permissions."""

    def __init__(
        self, kind: Literal["all", "any"], templates: tuple[str, ...], user: GetUser
    ) -> None:
        """Refuse what could never be filled in, and an empty list."""
        rest = "".join(_PLACEHOLDER.sub("", template) for template in templates)
        if not templates or {"{", "}"} & set(rest):
            raise ValueError(f"{templates} are no templates of permissions")
        self.described = {kind: list(templates)}
        self.names = {name for one in templates for name in _PLACEHOLDER.findall(one)}
        self._combine = all if kind == "all" else any
        self._templates = templates
        self._text = (" and " if kind == "all" else " or ").join(templates)
        # FastAPI reads from here on whom this dependency depends.
        named = Parameter.KEYWORD_ONLY
        self.__signature__ = Signature(
            [
                Parameter("connection", named, annotation=HTTPConnection),
                Parameter("user", named, annotation=Annotated[AuthUser, Depends(user)]),
            ]
        )

    async def __call__(self, connection: HTTPConnection, user: AuthUser) -> AuthUser:
        """Return the caller, or answer 403 and name what is required."""
        route = connection.scope["route"]
        if isinstance(route, APIWebSocketRoute):
            _check(route)
        elif not isinstance(route, AclRoute) or self not in route.checked:
            raise TypeError("require it on a route or router of route_class=AclRoute")
        values = {
            name: str(connection.path_params[name]).replace(".", "_")
            for name in self.names
        }
        required = (
            _PLACEHOLDER.sub(lambda found: values[found[1]], template)
            for template in self._templates
        )
        if not self._combine(map(user.access.matches_required_access, required)):
            raise PermissionDeniedError(f"requires {self._text}")
        return user


def require_acl(template: str, *, user: GetUser = get_current_user) -> Requirement:
    """Return the dependency on one permission."""
    return Requirement("all", (template,), user)


def require_all_acls(*templates: str, user: GetUser = get_current_user) -> Requirement:
    """Return the dependency on several permissions; without any it is an error."""
    return Requirement("all", templates, user)


def require_any_acl(*templates: str, user: GetUser = get_current_user) -> Requirement:
    """Return the dependency on one of several; without any it is an error."""
    return Requirement("any", templates, user)


class AclRoute(APIRoute):
    """A route whose requirements are checked at registration and shown in OpenAPI.

    Use it as the `route_class` of a router, or set it on `app.router`. A prefix with a
    parameter, and requirements, belong on the router, and not into `include_router`.
    """

    checked: Sequence[Requirement] = ()

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Check what the route depends on; FastAPI calls this at registration."""
        self.checked = _check(self)
        listed = [one.described for one in self.checked]
        self.openapi_extra = {**(self.openapi_extra or {}), EXTENSION: listed}
        return super().get_route_handler()


def _check(route: APIRoute | APIWebSocketRoute) -> list[Requirement]:
    """Return what a route requires; raise `ValueError` if that would mislead."""
    dependants = list(_with_all_below(route.dependant))
    required = [one.call for one in dependants if isinstance(one.call, Requirement)]
    names = set().union(*(one.names for one in required))
    if unknown := names - route.param_convertors.keys():
        raise ValueError(f"{route.path} has no parameter {min(unknown)!r}")
    for field in (field for one in dependants for field in one.path_params):
        kinds = KINDS.get(type(route.param_convertors.get(field.alias)).__name__)
        if field.alias in names and not _is_taken_as_it_is(field.field_info, kinds):
            raise ValueError(f"{route.path}: convert {field.alias!r} in the path alone")
    return required


def _is_taken_as_it_is(value: FieldInfo, kinds: set[str] | None) -> bool:
    if kinds is None:
        return True  # a convertor of the service's own
    kind: Any = Annotated[value.annotation, value]
    schema = TypeAdapter[Any](kind).core_schema
    changes = {"strip_whitespace", "to_lower", "to_upper"}
    return schema["type"] in kinds and not any(map(schema.get, changes))


def _with_all_below(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for one in dependant.dependencies:
        yield from _with_all_below(one)
