"""Print what a migration sends to put the extensions under the policy."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.auth.row_level_security import policies
from snippets.auth.tenancy import TenantMixin


class Base(DeclarativeBase):
    """The tables of this example."""


class Extension(TenantMixin, Base):
    """A number that only its tenant knows of."""

    __tablename__ = "extensions"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]


class Country(Base):
    """A dialling code that all tenants share, which gets no policy."""

    __tablename__ = "countries"

    code: Mapped[str] = mapped_column(primary_key=True)


def main() -> None:
    """Name the statements by their first words; the policy's condition is longer."""
    for statement in policies(Base.metadata):
        print(statement.partition(" USING ")[0])
        # > ALTER TABLE extensions ENABLE ROW LEVEL SECURITY
        # > ALTER TABLE extensions FORCE ROW LEVEL SECURITY
        # > CREATE POLICY tenant_rows ON extensions AS PERMISSIVE
        # > CREATE POLICY tenant_isolation ON extensions AS RESTRICTIVE


if __name__ == "__main__":
    main()
