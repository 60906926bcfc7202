"""What a client of the wired application is given after a user in a team changed."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
from sqlalchemy import insert

from snippets.caching.cache_manager_wiring import Base, User, create_app
from tests.support.counters import count_round_trips

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


async def test_each_team_of_a_renamed_user_is_loaded_anew_and_no_other(
    engine: AsyncEngine, database_url: str, redis_url: str
) -> None:
    sales, support = uuid4().hex, uuid4().hex  # which no other test asks for
    ada, grace = (uuid4().int >> 98 for _ in range(2))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        for user_id, team, name in ((ada, sales, "Ada"), (grace, support, "Grace")):
            row = {"id": user_id, "team": team, "name": name}
            await connection.execute(insert(User).values(row))
    app = create_app(database_url, redis_url)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://test"
        ) as http,
    ):
        assert (await http.get(f"/teams/{sales}")).json() == ["Ada"]
        assert (await http.get(f"/teams/{support}")).json() == ["Grace"]
        with count_round_trips() as trips:
            renamed = await http.put(f"/users/{ada}/name", params={"name": "Augusta"})
        assert renamed.status_code == 204
        assert trips.commands == ["EVAL"]

        assert (await http.get(f"/teams/{sales}")).json() == ["Augusta"]
        with count_round_trips() as trips:
            assert (await http.get(f"/teams/{support}")).json() == ["Grace"]
        assert trips.commands == ["HGET"]
