"""PostgreSQL itself keeps tenants apart, and says so if it cannot."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url, orm, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from catalogue.plugin import Proof
from snippets.auth.row_level_security import (
    UnprotectedError,
    create_policies,
    policies,
    require_policies,
    tell_tenant,
)
from snippets.auth.row_level_security_naive import create_policy
from snippets.auth.row_level_security_naive import set_tenant as set_on_connection
from snippets.auth.tenancy import bypass_tenancy, install_tenancy, set_tenant
from snippets.database.async_session import create_engine_and_sessions
from tests.support.counters import count_sql
from tests.support.tenants import A, B, Base, Extension, User

postgresql = pytest.mark.backends("postgresql")

ONE = {"pool_size": 1, "max_overflow": 0}
NAMES = "SELECT name FROM users ORDER BY id"
REFUSED = "(?i)app.tenant_id|invalid input syntax for type uuid"
"""What PostgreSQL says without a tenant, before and after there was one."""


@asynccontextmanager
async def role(url: str) -> AsyncIterator[str]:
    """Yield the URL of a database for a role that is no superuser; drop it after."""
    name, password = f"service_{uuid.uuid4().hex}", uuid.uuid4().hex
    admin = create_async_engine(url, poolclass=NullPool)
    async with admin.begin() as connection:
        await connection.execute(
            text(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        )
        await connection.execute(text(f"GRANT ALL ON SCHEMA public TO {name}"))
    try:
        own = make_url(url).set(username=name, password=password)
        yield own.render_as_string(hide_password=False)
    finally:
        async with admin.begin() as connection:
            await connection.execute(text(f"DROP OWNED BY {name}"))
            await connection.execute(text(f"DROP ROLE {name}"))
        await admin.dispose()


@pytest.fixture
async def service_url(database_url: str) -> AsyncIterator[str]:
    """The URL of a role that owns the tables, with a user of A and one of B in them."""
    async with role(database_url) as url:
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(
                sa.insert(User),
                [
                    {"id": 1, "name": "a", "tenant_id": A},
                    {"id": 2, "name": "b", "tenant_id": B},
                ],
            )
        await engine.dispose()
        yield url


@pytest.fixture
async def service(service_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of that role with one connection, under the policies."""
    engine = create_async_engine(service_url, **ONE)
    tell_tenant(engine)
    async with engine.begin() as connection:
        await connection.run_sync(create_policies, Base.metadata)
    yield engine
    await engine.dispose()


async def names(engine: AsyncEngine) -> list[str]:
    """Return whom a text without a condition finds, in a transaction of its own."""
    async with engine.connect() as connection:
        return [*(await connection.scalars(text(NAMES))).all()]


@postgresql
async def test_text_sent_past_every_session_sees_the_tenants_rows_alone(
    service: AsyncEngine,
) -> None:
    for tenant, expected in ((A, ["a"]), (B, ["b"]), (A, ["a"])):
        with set_tenant(tenant):
            assert await names(service) == expected


@postgresql
async def test_without_a_tenant_the_database_raises_and_all_means_nobody(
    service: AsyncEngine,
) -> None:
    with pytest.raises(DBAPIError, match=REFUSED):
        await names(service)
    with bypass_tenancy(), pytest.raises(DBAPIError, match=REFUSED):
        await names(service)
    async with service.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM calls")) == 0


@postgresql
@pytest.mark.parametrize("end", ["commit", "rollback", "error", "closed"])
async def test_a_connection_comes_back_to_the_pool_without_its_tenant(
    service: AsyncEngine, end: str
) -> None:
    with set_tenant(A):
        async with service.connect() as connection:
            await connection.execute(text(NAMES))
            if end == "error":
                with pytest.raises(DBAPIError):
                    await connection.execute(text("SELECT 1/0"))
            elif end != "closed":
                await getattr(connection, end)()
    with pytest.raises(DBAPIError, match=REFUSED):
        await names(service)


@postgresql
async def test_a_savepoint_that_is_rolled_back_keeps_the_tenant(
    service: AsyncEngine,
) -> None:
    with set_tenant(A):
        async with service.connect() as connection:
            async with await connection.begin_nested() as savepoint:
                await connection.execute(text(NAMES))
                await savepoint.rollback()
            assert (await connection.scalars(text(NAMES))).all() == ["a"]


WRITES = {
    "insert": "INSERT INTO users VALUES (9, 'x', '', '{b}')",
    "move": "UPDATE users SET tenant_id = '{b}'",
}


@postgresql
@pytest.mark.parametrize("write", WRITES)
async def test_the_database_refuses_a_row_of_another_tenant(
    service: AsyncEngine, write: str
) -> None:
    with set_tenant(A), pytest.raises(DBAPIError, match="row-level security policy"):
        async with service.begin() as connection:
            await connection.execute(text(WRITES[write].format(b=B)))


@postgresql
@pytest.mark.parametrize(
    "write",
    ["UPDATE users SET desk = 'x'", "DELETE FROM users"],
    ids=["update", "delete"],
)
async def test_a_write_without_a_condition_reaches_the_tenants_rows_alone(
    service: AsyncEngine, write: str
) -> None:
    with set_tenant(A):
        async with service.begin() as connection:
            assert (await connection.execute(text(write))).rowcount == 1


@postgresql
async def test_what_the_sessions_cannot_hold_back_the_database_does(
    service: AsyncEngine,
) -> None:
    engine, sessions = create_engine_and_sessions(service.url)
    install_tenancy(sessions)
    tell_tenant(engine)
    with set_tenant(A):
        async with sessions() as session:
            connection = await session.connection()
            assert (await connection.scalars(text(NAMES))).all() == ["a"]
            forged = User(id=2, tenant_id=A, name="b")
            orm.make_transient_to_detached(forged)
            session.add(forged)
            forged.desk = "x"
            with pytest.raises(orm.exc.StaleDataError):
                await session.flush()
    with set_tenant(B):
        async with sessions() as session:
            assert await session.scalar(select(User.desk)) == ""
    await engine.dispose()


@postgresql
async def test_a_tenant_that_changes_within_a_transaction_sees_nothing(
    service: AsyncEngine,
) -> None:
    engine, sessions = create_engine_and_sessions(service.url)
    install_tenancy(sessions)
    tell_tenant(engine)
    async with sessions() as session:
        with set_tenant(A):
            assert (await session.scalars(select(User.name))).all() == ["a"]
        with set_tenant(B):
            assert not (await session.scalars(select(User.name))).all()
            session.add(User(id=9, name="x"))
            with pytest.raises(DBAPIError, match="row-level security policy"):
                await session.flush()
    await engine.dispose()


@postgresql
async def test_a_connection_that_commits_each_statement_sees_nothing(
    service: AsyncEngine,
) -> None:
    autocommit = service.execution_options(isolation_level="AUTOCOMMIT")
    with set_tenant(A), pytest.raises(DBAPIError, match=REFUSED):
        await names(autocommit)


@postgresql
async def test_a_foreign_key_is_not_held_back_by_the_policy_unless_it_takes_the_tenant(
    service: AsyncEngine,
) -> None:
    single = "CREATE TABLE notes (user_id integer REFERENCES users (id))"
    with set_tenant(A):
        async with service.begin() as connection:
            await connection.execute(text(single))
            await connection.execute(text("INSERT INTO notes VALUES (2)"))
        with pytest.raises(DBAPIError, match="foreign key"):
            async with service.begin() as connection:
                await connection.execute(sa.insert(Extension).values(id=1, user_id=2))


@postgresql
async def test_a_role_that_is_not_held_back_is_found_at_start(
    service: AsyncEngine, database_url: str
) -> None:
    async with service.connect() as connection:
        await connection.run_sync(require_policies, Base.metadata)
    admin = create_async_engine(database_url, poolclass=NullPool)
    async with admin.connect() as connection:
        with pytest.raises(UnprotectedError, match="hides no row from this role"):
            await connection.run_sync(require_policies, Base.metadata)
    await admin.dispose()


@postgresql
@pytest.mark.parametrize("lacks", ["ENABLE", "FORCE"])
async def test_a_table_without_its_policy_is_found_at_start(
    service: AsyncEngine, lacks: str
) -> None:
    without = "DISABLE" if lacks == "ENABLE" else "NO FORCE"
    async with service.begin() as connection:
        await connection.execute(
            text(f"ALTER TABLE users {without} ROW LEVEL SECURITY")
        )
        with pytest.raises(UnprotectedError, match="users"):
            await connection.run_sync(require_policies, Base.metadata)


WIDER = {
    "another permissive policy": None,
    "the restrictive one is gone": "DROP POLICY tenant_isolation ON users",
    "it holds for one command": "DROP POLICY tenant_isolation ON users;"
    "CREATE POLICY tenant_isolation ON users AS RESTRICTIVE FOR UPDATE"
    " USING (tenant_id = current_setting('app.tenant_id')::uuid)"
    " WITH CHECK (tenant_id = current_setting('app.tenant_id')::uuid)",
    "it holds for one role": "ALTER POLICY tenant_isolation ON users TO CURRENT_USER",
    "it lets all be shown": "ALTER POLICY tenant_isolation ON users USING (true)",
    "it lets all be written": "ALTER POLICY tenant_isolation ON users"
    " WITH CHECK (true)",
    "it is permissive": "DROP POLICY tenant_isolation ON users;"
    "CREATE POLICY tenant_isolation ON users"
    " USING (tenant_id = current_setting('app.tenant_id')::uuid)"
    " WITH CHECK (tenant_id = current_setting('app.tenant_id')::uuid)",
}


@postgresql
@pytest.mark.parametrize("how", WIDER)
async def test_a_policy_that_shows_more_shows_nothing_or_is_found_at_start(
    service: AsyncEngine, how: str
) -> None:
    async with service.begin() as connection:
        await connection.execute(text("CREATE POLICY helpdesk ON users USING (true)"))
        change = WIDER[how]
        for statement in change.split(";") if change else ():
            await connection.execute(text(statement))
        if change is None:
            await connection.run_sync(require_policies, Base.metadata)
        else:
            with pytest.raises(UnprotectedError, match="users"):
                await connection.run_sync(require_policies, Base.metadata)
    if change is None:
        with set_tenant(A):
            assert await names(service) == ["a"]


@postgresql
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_setting_that_text_left_in_a_connection_is_not_in_force_in_the_next(
    service: AsyncEngine, end: str
) -> None:
    left = text(f"SET app.tenant_id = '{B}'")
    with set_tenant(A):
        async with service.connect() as connection:
            await connection.execute(left)
            await getattr(connection, end)()
    with pytest.raises(DBAPIError, match=REFUSED):
        await names(service)
    with bypass_tenancy(), pytest.raises(DBAPIError, match=REFUSED):
        await names(service)
    with set_tenant(A):
        assert await names(service) == ["a"]


@postgresql
@pytest.mark.parametrize(
    "change", ["SET LOCAL app.tenant_id = '{b}'", "SET app.tenant_id = '{b}'"]
)
async def test_text_that_sets_the_setting_is_believed_until_the_transaction_ends(
    service: AsyncEngine, change: str
) -> None:
    with set_tenant(A):
        async with service.connect() as connection:
            await connection.execute(text(change.format(b=B)))
            assert (await connection.scalars(text(NAMES))).all() == ["b"]
        assert await names(service) == ["a"]


@postgresql
async def test_truncate_is_held_back_by_a_missing_privilege_alone(
    service: AsyncEngine, database_url: str
) -> None:
    truncate = text("TRUNCATE users CASCADE")
    count = text("SELECT count(*) FROM users")
    admin = create_async_engine(database_url, poolclass=NullPool)
    async with role(database_url) as url:
        name = make_url(url).username
        async with admin.begin() as connection:
            granted = "GRANT SELECT, INSERT, UPDATE, DELETE ON users TO"
            await connection.execute(text(f"{granted} {name}"))
        other = create_async_engine(url, poolclass=NullPool)
        tell_tenant(other)
        with set_tenant(A):
            assert await names(other) == ["a"]
            with pytest.raises(DBAPIError, match="permission denied"):
                async with other.begin() as connection:
                    await connection.execute(truncate)
        await other.dispose()
    with set_tenant(A):
        async with service.begin() as connection:
            await connection.execute(truncate)
    async with admin.connect() as connection:
        assert await connection.scalar(count) == 0
    await admin.dispose()


PASSING = (
    "CREATE VIEW by_owner AS SELECT * FROM users",
    "CREATE VIEW by_reader WITH (security_invoker) AS SELECT * FROM users",
    """CREATE FUNCTION by_definer() RETURNS SETOF users LANGUAGE sql SECURITY DEFINER
    AS 'SELECT * FROM users'""",
    "GRANT SELECT ON by_owner, by_reader TO PUBLIC",
)
SHOWN = {
    "SELECT name FROM by_owner ORDER BY id": ["a", "b"],
    "SELECT name FROM by_definer() ORDER BY id": ["a", "b"],
    "SELECT name FROM by_reader ORDER BY id": ["a"],
}


@postgresql
async def test_a_view_and_a_function_are_held_back_as_their_owner_is(
    service: AsyncEngine, database_url: str
) -> None:
    admin = create_async_engine(database_url, poolclass=NullPool)
    async with admin.begin() as connection:
        for statement in PASSING:
            await connection.execute(text(statement))
    shown = {}
    with set_tenant(A):
        async with service.connect() as connection:
            await connection.run_sync(require_policies, Base.metadata)
            for query in SHOWN:
                shown[query] = (await connection.scalars(text(query))).all()
    async with admin.begin() as connection:
        await connection.execute(text("DROP VIEW by_owner, by_reader"))
        await connection.execute(text("DROP FUNCTION by_definer"))
    await admin.dispose()
    assert shown == SHOWN


PROTECTED = """
SELECT relname, relforcerowsecurity
FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema)
"""


@postgresql
@pytest.mark.usefixtures("service")
async def test_names_of_tables_and_schemas_are_quoted_whatever_they_hold(
    database_url: str,
) -> None:
    schema, name = 'acme"; DROP TABLE users; --', "us%ers: ours"
    metadata = sa.MetaData(schema=schema)
    sa.Table(name, metadata, sa.Column("tenant_id", sa.Uuid))
    admin = create_async_engine(database_url, poolclass=NullPool)
    async with admin.begin() as connection:
        await connection.execute(sa.schema.CreateSchema(schema))
        await connection.run_sync(metadata.create_all)
        await connection.run_sync(create_policies, metadata)
        found = await connection.execute(text(PROTECTED), {"schema": schema})
        assert found.all() == [(name, True)] * 2
        with pytest.raises(UnprotectedError):  # by its role alone: it finds the table
            await connection.run_sync(require_policies, metadata)
        assert await connection.scalar(text("SELECT count(*) FROM users")) == 2
        moved = {"schema_translate_map": {None: schema}}
        bare = sa.Table(name, sa.MetaData(), sa.Column("tenant_id", sa.Uuid))
        query = select(sa.func.count()).select_from(bare)
        assert await connection.scalar(query, execution_options=moved) == 0
        await connection.execute(sa.schema.DropSchema(schema, cascade=True))
    await admin.dispose()


@postgresql
async def test_it_costs_a_statement_per_transaction(
    service: AsyncEngine, proof: Proof
) -> None:
    with set_tenant(A), count_sql(service) as sent:
        async with service.begin() as connection:
            await connection.execute(text(NAMES))
            await connection.execute(text(NAMES))
    assert sent.total == 3
    assert "set_config" in sent.texts[0]
    with count_sql(service) as without:
        async with service.begin() as connection:
            await connection.execute(text("SELECT 1"))
    assert without.total == 2
    proof.cost("a transaction with two queries", statements=sent.total)


@postgresql
async def test_the_naive_version_leaves_the_tenant_to_the_next_and_all_to_the_owner(
    service_url: str, proof: Proof
) -> None:
    engine = create_async_engine(service_url, **ONE)
    async with engine.begin() as connection:
        await connection.run_sync(create_policy, "users")
        await set_on_connection(connection, A)
        assert (await connection.scalars(text(NAMES))).all() == ["a", "b"]
    proof.breaks(
        "the role that owns the table, as migrations leave it, asked for all users",
        "a policy without FORCE does not hold the owner: it got those of both tenants",
    )
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE users FORCE ROW LEVEL SECURITY"))
    assert await names(engine) == ["a"]
    proof.breaks(
        "a later request without a tenant took the connection from the pool",
        "SET outlived its transaction: it got the users of the tenant before",
    )
    async with engine.connect() as connection:
        hostile: Any = "x'; SET app.tenant_id = '" + str(B)
        with pytest.raises(DBAPIError, match="multiple commands"):
            await set_on_connection(connection, hostile)
    await engine.dispose()


def test_the_statements_of_a_migration_cover_the_tables_with_a_tenant_alone() -> None:
    statements = [*policies(Base.metadata)]
    assert len(statements) == 8
    assert {
        one.split(" TABLE ")[-1].split()[0] for one in statements if "FORCE" in one
    } == {
        "users",
        "extensions",
    }


@pytest.mark.backends("sqlite")
async def test_a_database_without_row_level_security_is_refused(
    engine: AsyncEngine,
) -> None:
    with pytest.raises(TypeError, match="sqlite has no row-level security"):
        tell_tenant(engine)
