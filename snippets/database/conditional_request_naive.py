"""Compare the header with the tag before the write, as written first."""

from fastapi import HTTPException
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of this service."""


class Extension(Base):
    """Where a number forwards its calls to."""

    __tablename__ = "extensions"

    id: Mapped[int] = mapped_column(primary_key=True)
    forwards_to: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)


async def save(
    session: AsyncSession, key: int, forwards_to: str, if_match: str | None
) -> None:
    """Change an extension unless it is not what the client has seen."""
    extension = await session.get(Extension, key)
    if extension is None:
        raise HTTPException(404)
    tag = f'"{extension.version}"'
    if if_match and tag not in if_match:  # it may be a list
        raise HTTPException(412)
    extension.forwards_to = forwards_to
    extension.version += 1
