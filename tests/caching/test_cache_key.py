"""Two calls share a key if and only if they are the same call, types included."""

import subprocess
import sys
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from itertools import combinations
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from catalogue.patterns import ROOT
from catalogue.plugin import Proof
from snippets.caching import cache_key_naive
from snippets.caching.cache_key import CacheKey, CacheKeyError

# A busy machine is no reason to fail.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

tenant: ContextVar[str | None] = ContextVar("tenant")


class Colour(StrEnum):
    """A lamp of the telephone."""

    RED = "red"


class Level(IntEnum):
    """How urgent a call is."""

    ONE = 1


class Rank(IntEnum):
    """Another number."""

    ONE = 1


class May(Flag):
    """What a user may do."""

    CALL = 1
    RECORD = 2


class Name(str):
    """A text that may behave unlike a text."""

    __slots__ = ()


class Filters(BaseModel):
    """A model."""

    text: str = ""


class Nameless(tzinfo):
    """A zone with rules but without a name."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return an offset that depends on the date."""
        return None if moment is None else timedelta(hours=moment.month % 2)

    def dst(self, _: datetime | None) -> None:
        """Say nothing about summer time."""

    def tzname(self, _: datetime | None) -> None:
        """Have no name."""


async def search(*args: object, **kwargs: object) -> None:
    """Take any call."""


async def find_user(user_id: object, active: object = 1, *, page: object = 1) -> None:
    """Take an id, and options."""


async def rename(first: object, second: object = None) -> None:
    """Take two positional arguments."""


def key_of(function: Callable[..., object], *args: object, **kwargs: object) -> str:
    """Return the key of one call."""
    return CacheKey(function, "telephony:1", vary=None)(*args, **kwargs)


SUMMER = datetime(2026, 7, 1, 12, tzinfo=UTC).replace(tzinfo=None)
LONDON = ZoneInfo("Europe/London")

DIFFERENT: list[object] = [
    1,
    "1",
    True,
    1.0,
    Decimal(1),
    Decimal("1.0"),
    b"1",
    Level.ONE,
    Rank.ONE,
    None,
    "None",
    "",
    0,
    -0.0,
    False,
    (),
    [],
    {},
    set(),
    frozenset(),
    [1],
    (1,),
    ["1"],
    [[1]],
    {1},
    {"1"},
    {1: "Ada"},
    {"1": "Ada"},
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    ["a", "b"],
    ["a:b"],
    ["ab"],
    "a:b",
    "red",
    Colour.RED,
    May.CALL,
    May.CALL | May.RECORD,
    May(0),
    "x=1",
    "str 1:x",
    "\ud83d\ude00",
    "\U0001f600",
    "\ud800",
    "\ud801",
    "?",
    date(2026, 7, 1),
    SUMMER,
    SUMMER.replace(fold=1),
    SUMMER.replace(tzinfo=UTC),
    SUMMER.replace(tzinfo=timezone(timedelta(hours=1))),
    SUMMER.replace(tzinfo=LONDON),
    SUMMER.replace(tzinfo=ZoneInfo("Europe/Lisbon")),
    timedelta(1),
    UUID(int=1),
    10**5000,
    float("inf"),
    float("nan"),
]


def test_no_two_different_arguments_share_a_key() -> None:
    keys = [key_of(search, value) for value in DIFFERENT]

    for first, second in combinations(range(len(keys)), 2):
        assert keys[first] != keys[second], (DIFFERENT[first], DIFFERENT[second])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (key_of(search, "a:b"), key_of(search, "a", "b")),
        (key_of(search, "x=1"), key_of(search, x=1)),
        (key_of(search, ["a"], "b"), key_of(search, "a", ["b"])),
        (key_of(search, ("x", 1)), key_of(search, x=1)),
        (key_of(rename, "a", "b"), key_of(rename, "b", "a")),
        (key_of(rename, "a"), key_of(rename, "a", "None")),
        (key_of(find_user, 5), key_of(find_user, 5, page=2)),
        (key_of(find_user, 5), key_of(search, 5)),
        (key_of(search, 5), CacheKey(search, "telephony:2", vary=None)(5)),
    ],
)
def test_two_different_calls_do_not_share_a_key(first: str, second: str) -> None:
    assert first != second


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (key_of(find_user, 5), key_of(find_user, user_id=5)),
        (key_of(find_user, 5), key_of(find_user, 5, active=1, page=1)),
        (key_of(rename, 1), key_of(rename, 1, None)),
        (key_of(rename, 1, 2), key_of(rename, second=2, first=1)),
        (key_of(search, a=1, b=2), key_of(search, b=2, a=1)),
        (key_of(search, {"a": 1, "b": 2}), key_of(search, {"b": 2, "a": 1})),
        (key_of(search, {"a", "b", "c"}), key_of(search, {"c", "b", "a"})),
        (
            key_of(search, SUMMER.replace(tzinfo=ZoneInfo("UTC"))),
            key_of(search, SUMMER.replace(tzinfo=UTC)),
        ),
    ],
)
def test_the_same_call_written_otherwise_has_the_same_key(
    first: str, second: str
) -> None:
    assert first == second


@pytest.mark.parametrize("join", ["", ":", ",", "str 1:", "str:", "1:", "\0", "', '"])
def test_no_text_can_pass_for_two_arguments(join: str) -> None:
    assert key_of(search, "a", "b") != key_of(search, f"a{join}b")
    assert key_of(search, ["a", "b"]) != key_of(search, [f"a{join}b"])
    assert key_of(rename, "a", "b") != key_of(rename, f"a{join}b", "")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.uuids()
    | st.sampled_from([*Colour, *Level, *Rank, *May]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.booleans(), inner, max_size=3)
        | st.sets(st.text() | st.integers(), max_size=3)
    ),
    max_leaves=6,
)
calls = st.tuples(
    st.lists(plain, max_size=3),
    st.dictionaries(st.sampled_from(["text", "page", "size"]), plain, max_size=2),
)


@unhurried
@given(first=calls, second=calls)
@example(first=([1], {}), second=([True], {}))
@example(first=(["a", "b"], {}), second=(["ab"], {}))
def test_calls_share_a_key_if_and_only_if_they_are_written_alike(
    first: tuple[list[object], dict[str, object]],
    second: tuple[list[object], dict[str, object]],
) -> None:
    keys = [key_of(search, *args, **kwargs) for args, kwargs in (first, second)]

    assert (keys[0] == keys[1]) == (typed(first) == typed(second))


@unhurried
@given(value=plain)
def test_a_call_that_is_equal_but_built_anew_has_the_same_key(value: object) -> None:
    assert key_of(search, value) == key_of(search, rebuilt(value))


@unhurried
@given(args=st.lists(plain, min_size=1, max_size=2), second=plain)
def test_positional_and_named_arguments_are_bound_alike(
    args: list[object], second: object
) -> None:
    named = dict(zip(("first", "second"), args, strict=False))

    assert key_of(rename, *args) == key_of(rename, **named)
    assert key_of(rename, args[0], second) == key_of(rename, args[0], second=second)


def drawn_keys() -> list[str]:
    """Return the keys of a hundred calls, the same ones in each process."""
    drawn: list[str] = []

    @settings(unhurried, derandomize=True, database=None, phases=[Phase.generate])
    @given(call=calls)
    def draw(call: tuple[list[object], dict[str, object]]) -> None:
        drawn.append(key_of(search, *call[0], **call[1]))

    draw()
    return [*drawn, key_of(search, *DIFFERENT, {"acme", "globex", "initech"})]


def test_equal_calls_share_a_key_in_processes_with_other_hash_seeds() -> None:
    command = "from tests.caching import test_cache_key as there; "
    command += "print(hash('acme'), *there.drawn_keys())"
    printed = [
        subprocess.run(
            [sys.executable, "-c", command],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .split()
        for seed in ("1", "2")
    ]
    hashes, *pairs = zip(*printed, strict=True)

    assert len(set(hashes)) == 2
    assert len(set(pairs)) > 50
    assert all(one == other for one, other in pairs)


def test_a_key_names_the_function_and_hides_the_arguments() -> None:
    key = key_of(find_user, "ada@example.com")

    assert key.startswith(f"telephony:1:{__name__}.find_user:")
    assert "ada" not in key
    digest = key.rpartition(":")[2]
    assert len(bytes.fromhex(digest)) * 8 >= 128


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        (number for number in "1001"),
        Filters(),
        Name("1001"),
        bytearray(b"1001"),
        [object()],
        {"filters": Filters()},
        {Name("a"): 1},
        SUMMER.replace(tzinfo=Nameless()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_that_cannot_be_told_apart_is_refused(value: object) -> None:
    with pytest.raises(CacheKeyError, match="no key can tell one"):
        key_of(search, value)


def test_an_enum_of_values_that_cannot_be_told_apart_is_refused() -> None:
    route = Enum("route", {"DESK": object()})

    with pytest.raises(CacheKeyError):
        key_of(search, next(iter(route)))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"unknown": 1}), ((1,), {"first": 1})],
)
def test_a_call_that_the_function_would_refuse_has_no_key(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match="argument"):
        key_of(rename, *args, **kwargs)


def test_a_keyword_only_argument_is_not_taken_by_position() -> None:
    with pytest.raises(TypeError, match="positional"):
        key_of(find_user, 5, 1, 2)


def test_excluded_arguments_do_not_matter() -> None:
    async def find(session: object, user_id: int, request: object = None) -> None:
        """Use a session and a request."""

    key = CacheKey(find, "telephony:1", exclude={"session", "request"}, vary=None)

    assert key(object(), 7) == key(object(), 7, request=object())
    assert key(object(), 7) != key(object(), 8)


def test_excluding_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="no parameter 'sesion'"):
        CacheKey(find_user, "telephony:1", exclude={"sesion"}, vary=None)


class Directory:
    """Users of one tenant."""

    def __init__(self, tenant: str) -> None:
        """Belong to a tenant."""
        self.tenant = tenant

    async def find(self, user_id: int) -> None:
        """Find a user."""


def test_a_method_says_whether_its_object_matters() -> None:
    with pytest.raises(TypeError, match="exclude 'self', or give key="):
        CacheKey(Directory.find, "telephony:1", vary=None)

    shared = CacheKey(Directory.find, "telephony:1", exclude={"self"}, vary=None)
    own = CacheKey(
        Directory.find,
        "telephony:1",
        key=lambda call: (call["self"].tenant, call["user_id"]),
        vary=None,
    )
    acme, globex = Directory("acme"), Directory("globex")

    assert shared(acme, 7) == shared(globex, 7)
    assert own(acme, 7) == own(Directory("acme"), user_id=7)
    assert own(acme, 7) != own(globex, 7)


def test_a_key_function_is_given_the_defaults_too() -> None:
    async def page_of(text: str, page: int = 1) -> None:
        """Search."""

    key = CacheKey(
        page_of,
        "telephony:1",
        key=lambda call: [call["text"].lower(), call["page"]],
        vary=None,
    )

    assert key("Ada") == key(text="ADA", page=1)
    assert key("Ada") != key("Ada", 2)


def test_a_key_function_must_return_what_can_be_told_apart() -> None:
    key = CacheKey(search, "telephony:1", key=lambda call: call["args"][0], vary=None)

    with pytest.raises(CacheKeyError):
        key(object())


def test_two_tenants_do_not_share_a_key() -> None:
    key = CacheKey(find_user, "telephony:1", vary=tenant.get)

    def as_tenant(name: str | None) -> str:
        tenant.set(name)
        return key(7)

    acme, globex, again = (
        copy_context().run(as_tenant, name) for name in ("acme", "globex", "acme")
    )

    assert acme == again
    assert acme != globex


def test_a_missing_tenant_is_an_error() -> None:
    key = CacheKey(find_user, "telephony:1", vary=tenant.get)

    with pytest.raises(CacheKeyError, match="not set"):
        copy_context().run(key, 7)

    def without_tenant() -> str:
        tenant.set(None)
        return key(7)

    with pytest.raises(CacheKeyError, match="None"):
        copy_context().run(without_tenant)


@pytest.mark.parametrize(
    "found",
    ["", b"", (), ("acme", None), (None, 7), ("acme", ""), ("", "acme")],
)
def test_a_tenant_or_a_user_that_is_missing_in_part_is_an_error(found: object) -> None:
    key = CacheKey(find_user, "telephony:1", vary=lambda: found)

    with pytest.raises(CacheKeyError, match="None, or empty"):
        key(7)


@pytest.mark.parametrize("found", [0, False, ("acme", 0), UUID(int=0)])
def test_a_zero_is_not_missing(found: object) -> None:
    assert CacheKey(find_user, "telephony:1", vary=lambda: found)(7)


def test_what_a_result_varies_by_must_be_said_and_may_be_nothing() -> None:
    make: Callable[..., CacheKey[...]] = CacheKey

    with pytest.raises(TypeError, match="vary=None for nothing"):
        make(find_user, "telephony:1")
    assert make(find_user, "telephony:1", vary=None)(7)


def test_an_argument_that_is_nested_too_deep_is_refused() -> None:
    nested: list[object] = []
    for _ in range(sys.getrecursionlimit()):
        nested = [nested]

    for value in (nested, endless(), {"filters": endless()}):
        with pytest.raises(CacheKeyError, match="nested too deep"):
            key_of(search, value)


def endless() -> list[object]:
    """Return a list that contains itself."""
    one: list[object] = []
    one.append(one)
    return one


def test_equal_numbers_of_different_texts_have_their_own_keys() -> None:
    assert key_of(search, Decimal("1.0")) != key_of(search, Decimal("1.00"))
    assert key_of(search, 0.0) != key_of(search, -0.0)


def test_naive_keys_collide(proof: Proof) -> None:
    key = cache_key_naive.cache_key

    assert key("search", "a:b") == key("search", "a", "b")
    proof.breaks('search("a:b")', 'is given what search("a", "b") found')
    assert key("search", "x=1") == key("search", x=1)
    proof.breaks('search("x=1")', "is given what search(x=1) found")
    assert key("user", 1) == key("user", "1")
    proof.breaks('get_user("1")', "is given what get_user(1) found")
    assert key("user", 1) != key("user", user_id=1)
    proof.breaks("get_user(user_id=1)", "misses what get_user(1) stored")
    assert key("user", object()) != key("user", object())
    proof.breaks("A session among the arguments", "is in the key by its address")


def typed(value: object) -> object:
    """Return the value so that only equal values of equal types are equal."""
    kind = type(value).__qualname__
    match value:
        case Enum():
            return kind, value.name
        case list() | tuple():
            return kind, [typed(item) for item in value]
        case dict():
            pairs = [(repr(typed(key)), typed(item)) for key, item in value.items()]
            return kind, sorted(pairs, key=lambda pair: pair[0])
        case set():
            return kind, sorted(repr(typed(item)) for item in value)
        case datetime() if value.tzinfo is not None:
            fixed = value.tzinfo.utcoffset(None) is not None
            zone = None if fixed else str(value.tzinfo)
            return kind, value.isoformat(), value.fold, zone
        case _:
            return kind, repr(value)


def rebuilt(value: object) -> object:
    """Return an equal value, with dictionaries and sets filled in another order."""
    match value:
        case list() | tuple():
            return type(value)([rebuilt(item) for item in value])
        case dict():
            return {key: rebuilt(item) for key, item in reversed(value.items())}
        case set():
            return set().union(*({item} for item in reversed([*value])))
        case _:
            return value
