"""Let the user whom a FastAPI application has authenticated be the actor."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends

from snippets.database.audit_mixin import set_actor


def acts_as(current_user: Callable[..., str]) -> Callable[..., AsyncIterator[None]]:
    """Return a dependency, for a whole application, on the one that tells the user.

    It ends after the response, and so after the commit of `SessionDep`.
    """

    # A plain function would run in a thread, whose context the endpoint does not share.
    async def act(
        user: Annotated[str, Depends(current_user)],
    ) -> AsyncIterator[None]:
        with set_actor(user):
            yield

    return act
