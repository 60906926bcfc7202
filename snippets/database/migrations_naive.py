"""Create the tables at start-up: two starters collide, and no column is ever added."""

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine


async def start(engine: AsyncEngine, metadata: MetaData) -> None:
    """Create the tables that are not there."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
