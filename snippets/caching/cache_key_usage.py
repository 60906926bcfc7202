"""See which searches of a directory share a key, and which cannot have one."""

from contextvars import ContextVar

from snippets.caching.cache_key import CacheKey, CacheKeyError

tenant: ContextVar[str] = ContextVar("tenant")


async def search(session: object, text: str, options: object = None) -> list[str]:
    """Find users by name, in the database of a session."""
    raise NotImplementedError


def main() -> None:
    """Compare keys."""
    session, other_session = object(), object()
    key = CacheKey(search, "telephony:1", exclude={"session"}, vary=None)
    print(key(session, "ada").rpartition(":")[0])
    # > telephony:1:__main__.search
    print(key(session, "ada") == key(other_session, options=None, text="ada"))
    # > True
    print(key(session, "7", 7) == key(session, "7", "7"))
    # > False
    print(
        key(session, "7", {"page": 1, "size": 9})
        == key(session, "7", {"size": 9, "page": 1})
    )
    # > True
    try:
        key(session, "ada", object())
    except CacheKeyError as error:
        print(error)
        # > no key can tell one object from another

    by_tenant = CacheKey(search, "telephony:1", exclude={"session"}, vary=tenant.get)
    try:
        by_tenant(session, "ada")
    except CacheKeyError as error:
        print(error)
        # > __main__.search varies by what is not set
    tenant.set("acme")
    acme = by_tenant(session, "ada")
    tenant.set("globex")
    print(by_tenant(session, "ada") == acme)
    # > False

    caseless = CacheKey(
        search, "telephony:1", key=lambda call: call["text"].casefold(), vary=None
    )
    print(caseless(session, "Ada") == caseless(session, "ADA"))
    # > True


if __name__ == "__main__":
    main()
