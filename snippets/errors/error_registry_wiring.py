"""Wire the database patterns' errors into a registry: conflicts are 409, and stable.

A unique or foreign key that is violated is a 409. NOT NULL and CHECK are a 422, as is a
text that does not fit its column. A stale version is a 409, an exhausted pool a 503.
Whatever else a database raises has no code, and so is a 500: also a number beyond its
column, which drivers refuse as they do a value of a wrong type. Bound it in the model.
"""

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.conflict import ConflictError
from snippets.errors.error_registry import ErrorCode, Registry

TAKEN = ErrorCode("/problems/taken", 409, "Something else has this value already")
REFERENCE = ErrorCode(
    "/problems/reference", 409, "What it refers to is not there, or in use"
)
REJECTED = ErrorCode("/problems/rejected", 422, "A value is not allowed here")
STALE = ErrorCode("/problems/stale", 409, "Somebody else changed it meanwhile")
BUSY = ErrorCode(
    "/problems/busy", 503, "The service is busy", headers={"Retry-After": "5"}
)
VIOLATIONS = {
    "23505": TAKEN,
    "SQLITE_CONSTRAINT_UNIQUE": TAKEN,
    "SQLITE_CONSTRAINT_PRIMARYKEY": TAKEN,
    "23P01": TAKEN,  # EXCLUDE
    "23503": REFERENCE,
    "23001": REFERENCE,  # RESTRICT, from PostgreSQL 18 on
    "SQLITE_CONSTRAINT_FOREIGNKEY": REFERENCE,
    "23502": REJECTED,
    "SQLITE_CONSTRAINT_NOTNULL": REJECTED,
    "23514": REJECTED,
    "SQLITE_CONSTRAINT_CHECK": REJECTED,
    "22001": REJECTED,  # too long
    "22003": REJECTED,  # out of a numeric's range
    "22021": REJECTED,  # no text of this encoding, such as NUL
}


def violation(error: DBAPIError) -> ErrorCode | None:
    """Return the code of a violated constraint, by what the driver calls it."""
    driver = error.orig
    if str(driver) == "FOREIGN KEY constraint failed":
        return REFERENCE  # RESTRICT has the name of a trigger on SQLite
    state = getattr(driver, "sqlstate", "")
    return VIOLATIONS.get(state or getattr(driver, "sqlite_errorname", ""))


def conflict(error: ConflictError) -> ErrorCode | None:
    """Return the code of the violation, which the conflict keeps out of the log."""
    cause = error.__context__
    return violation(cause) if isinstance(cause, IntegrityError) else TAKEN


def create_registry(*codes: ErrorCode) -> Registry:
    """Return a registry of the service's own codes and of those of the database."""
    return Registry(
        *codes,
        *(TAKEN, REFERENCE, REJECTED, STALE, BUSY),
        translate={
            ConflictError: conflict,
            DBAPIError: violation,
            StaleDataError: lambda _: STALE,
            PoolTimeoutError: lambda _: BUSY,
        },
    )
