"""Get a row, set what has changed, flush it, as written first."""

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of this service."""


class Extension(Base):
    """Where a number forwards its calls to."""

    __tablename__ = "extensions"

    id: Mapped[int] = mapped_column(primary_key=True)
    forwards_to: Mapped[str]


async def save(session: AsyncSession, key: int, form: dict[str, str]) -> bool:
    """Write what somebody made of the extension they were shown."""
    extension = await session.get(Extension, key)
    if extension is None:
        return False
    for name, value in form.items():
        setattr(extension, name, value)
    await session.flush()
    return True
