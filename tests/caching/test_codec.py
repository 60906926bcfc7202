"""A stored value comes back equal in value and type, or is refused before storing."""

import json
import sys
import traceback
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Network
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    computed_field,
    model_serializer,
    model_validator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from catalogue.plugin import Proof
from snippets.caching import codec_naive
from snippets.caching.codec import Codec, CodecError

# A busy machine is no reason to fail.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class State(StrEnum):
    """Whether an extension can be rung."""

    FREE = "free"
    BUSY = "busy"


class Priority(IntEnum):
    """How urgent a call is."""

    NORMAL = 0
    EMERGENCY = 1


class Extension(BaseModel):
    """A number that rings at somebody's desk."""

    number: str = Field(alias="extensionNumber")
    state: State = State.FREE

    @computed_field
    def label(self) -> str:
        """What the telephone shows."""
        return f"{self.number} {self.state}"


class User(BaseModel):
    """Somebody with a telephone."""

    id: UUID
    extensions: tuple[Extension, ...] = ()
    credit: Decimal = Decimal(0)
    last_call: datetime | None = None


class Admin(User):
    """Somebody who may change the others."""


class Leg(NamedTuple):
    """One half of a call."""

    number: str
    seconds: int


@dataclass(frozen=True)
class Voicemail:
    """A message left at the tone."""

    sound: bytes
    heard_by: frozenset[int] = frozenset()


class Base(DeclarativeBase):
    """Tables."""


class UserRow(Base):
    """An ORM class."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class ExtensionRow(MappedAsDataclass, Base):
    """An ORM class that is a dataclass as well."""

    __tablename__ = "extensions"
    number: Mapped[str] = mapped_column(primary_key=True)


@dataclass(slots=True)
class Ring:
    """How long a telephone rings; it has no dictionary of its own."""

    seconds: float


@dataclass
class Page:
    """A DTO with an ORM class inside."""

    rows: list[ExtensionRow]


class Lax(BaseModel):
    """A DTO that would take any class."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    row: UserRow | None = None


class Numbers(BaseModel):
    """A DTO that can be read only once."""

    numbers: Iterable[int] = ()


class Login(BaseModel):
    """Hides its secret from JSON."""

    password: SecretStr


def codec(kind: object) -> Codec[Any]:
    """Return the codec of a type that the type checker need not know."""
    build: Callable[[Any], Codec[Any]] = Codec
    return build(kind)


ID = UUID("6f9f8f0a-3f6b-4d0e-9a52-0e6d1a3c5b7e")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NIGHT = NOON.replace(tzinfo=None, fold=1)
ADA = User(
    id=ID,
    extensions=(Extension(extensionNumber="1001", state=State.BUSY),),
    credit=Decimal("12.50"),
    last_call=NOON,
)

KEPT = [
    (str, "123"),
    (str, ""),
    (str, "null"),
    (str, "true"),
    (int, 0),
    (int, 10**30),
    (bool, False),
    (float, 1.0),
    (float, -0.0),
    (type(None), None),
    (User | None, None),
    (list[int], []),
    (dict[str, int], {}),
    (object, [1, 1.0, True, "1", None, {"1": []}]),
    (bytes, b"\xff\x00"),
    (Decimal, Decimal("1.00")),
    (date, NOON.date()),
    (time, time(12, 30)),
    (timedelta, timedelta(days=1, microseconds=1)),
    (datetime, NOON),
    (datetime, NOON.replace(tzinfo=None)),
    (datetime, NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))),
    (UUID, ID),
    (State, State.BUSY),
    (Priority, Priority.EMERGENCY),
    (Literal["in", "out"], "in"),
    (Annotated[int, Field(ge=0)], 7),
    (dict[int, str], {1001: "Ada"}),
    (dict[UUID, list[bytes]], {ID: [b"\xff"]}),
    (tuple[int, ...], (1, 2)),
    (set[int], {1, 2}),
    (int | str, "1"),
    (int | str, 1),
    (Leg, Leg("1001", 60)),
    (Voicemail, Voicemail(b"\xff", frozenset({7}))),
    (set[Voicemail], {Voicemail(b"\xff"), Voicemail(b"")}),
    (Ring, Ring(1.5)),
    (User, ADA),
    (list[User], [ADA]),
    (deque[int], deque([1, 2])),
    (deque[datetime], deque([NOON])),
    (defaultdict[str, int], defaultdict(int, ring=1)),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (Counter[str], Counter("ring")),
    (IPv4Network, IPv4Network("10.0.0.0/8")),
    (tuple[bool, float], (True, 1.0)),
    (dict[tuple[int, ...], str], {}),
]

REFUSED = [
    (object, (1, 2)),
    (object, {1001: "Ada"}),
    (object, b"1001"),
    (object, Decimal(1)),
    (object, NOON),
    (object, ADA),
    (object, UserRow(id=7)),
    (object, ExtensionRow(number="1001")),
    (int, True),
    (int, Priority.EMERGENCY),
    (str, State.BUSY),
    (str, "\ud800"),
    (float, 1),
    (float, float("nan")),
    (float, float("inf")),
    (set[int], {True}),
    (tuple[int, ...], (1, True)),
    (list[tuple[int, ...]], [(1.0,)]),
    (deque[int], deque([True])),
    (deque[float], deque([1])),
    (deque[int], deque([1], maxlen=3)),
    (list[deque[int]], [deque([1], maxlen=3)]),
    (defaultdict[str, int], defaultdict(lambda: 5, ring=1)),
    (object, bytearray(b"1001")),
    (datetime, NIGHT),
    (time, time(1, 30, fold=1)),
    (deque[datetime], deque([NIGHT])),
    (dict[str, datetime], {"end": NIGHT}),
    (tuple[str, int], Leg("1001", 60)),
    (list[tuple[str, int]], [Leg("1001", 60)]),
    (dict[str, int], Counter("ring")),
    (dict[str, dict[str, int]], {"1001": Counter("ring")}),
    (Ring, Ring(1)),
    (set[Voicemail], {Voicemail(b"", frozenset({True}))}),
    (Decimal | str, "1.5"),
    (datetime, NOON.astimezone(ZoneInfo("Europe/London"))),
    (User, Admin(id=ID)),
    (list[User], [Admin(id=ID)]),
    (User, ADA.model_copy(update={"credit": 12})),
    (Login, Login(password=SecretStr("hunter2"))),
]


@pytest.mark.parametrize(("kind", "value"), KEPT)
def test_a_value_comes_back_equal_and_of_the_same_type(
    kind: object, value: object
) -> None:
    values = codec(kind)

    back = values.decode(values.encode(value))

    assert typed(back) == typed(value)


@pytest.mark.parametrize(("kind", "value"), REFUSED)
def test_a_value_that_would_come_back_changed_is_refused(
    kind: object, value: object
) -> None:
    with pytest.raises(CodecError, match="would come back changed"):
        codec(kind).encode(value)


def test_a_model_whose_hidden_state_would_be_lost_is_refused() -> None:
    class Session(BaseModel):
        """Remembers more than its fields."""

        user: str
        _seen: int = PrivateAttr(0)

        def look(self) -> None:
            """Count a look."""
            self._seen += 1

    plain, used = Session(user="Ada"), Session(user="Ada")
    used.look()

    assert Codec(Session).decode(Codec(Session).encode(plain)) == plain
    with pytest.raises(CodecError):
        Codec(Session).encode(used)


@pytest.mark.parametrize("kind", [object, list[object], Any])
def test_a_value_that_contains_itself_is_refused(kind: object) -> None:
    calls: list[object] = []
    calls.append(calls)

    with pytest.raises(CodecError):
        codec(kind).encode(calls)


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    calls: list[object] = []
    for _ in range(sys.getrecursionlimit()):
        calls = [calls]

    with pytest.raises(CodecError):
        codec(object).encode(calls)


@pytest.mark.parametrize(
    "kind",
    [
        Iterable[int],
        Iterator[int],
        Generator[int, None, None],
        list[Iterable[int]],
        Numbers,
    ],
)
def test_a_type_whose_values_can_be_read_only_once_is_refused(kind: object) -> None:
    with pytest.raises(TypeError, match=r"return a (list|DTO)"):
        codec(kind)


@pytest.mark.parametrize("kind", [object, list[int], Sequence[int]])
def test_a_value_that_can_be_read_only_once_is_refused_unread(kind: object) -> None:
    numbers = iter([1, 2])

    with pytest.raises(CodecError):
        codec(kind).encode(numbers)
    assert list(numbers) == [1, 2]

    nested = [iter([1, 2])]
    with pytest.raises(CodecError):
        codec(list[object]).encode(nested)
    assert list(nested[0]) == [1, 2]


def test_whatever_a_validator_or_a_serializer_raises_is_a_refusal() -> None:
    class Renamed(BaseModel):
        """Reads only what it was once made of."""

        name: str

        @model_validator(mode="before")
        @classmethod
        def rename(cls, data: dict[str, str]) -> dict[str, str]:
            """Take the name by which the field was once known."""
            return {"name": data["title"]}

    class Broken(BaseModel):
        """Cannot be written."""

        name: str

        @model_serializer
        def fail(self) -> str:
            """Fail."""
            raise ZeroDivisionError("hunter2")

    renamed, broken = Codec(Renamed), Codec(Broken)

    with pytest.raises(CodecError, match="are not a"):
        renamed.decode(b'[{"name":"Ada"}]')
    with pytest.raises(CodecError, match="would come back changed"):
        renamed.encode(Renamed.model_validate({"title": "Ada"}))
    with pytest.raises(CodecError, match="would come back changed") as caught:
        broken.encode(Broken(name="Ada"))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_which_fields_were_left_to_their_defaults_is_not_kept() -> None:
    user = User(id=ID)

    back = Codec(User).decode(Codec(User).encode(user))

    assert back == user
    assert user.model_dump(exclude_unset=True) == {"id": ID}
    assert back.model_dump(exclude_unset=True) == back.model_dump()


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
)
moments = st.datetimes() | st.datetimes(timezones=st.timezones())
anything = st.recursive(
    scalars | moments | st.decimals() | st.uuids() | st.sampled_from(State),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
KINDS = [
    object,
    str,
    bytes,
    float,
    Decimal,
    datetime,
    State,
    int | str | None,
    list[object],
    list[bytes | str],
    dict[str, object],
    dict[int, object],
    tuple[object, ...],
]


@unhurried
@given(kind=st.sampled_from(KINDS), value=anything)
def test_whatever_is_written_comes_back_or_is_refused(
    kind: object, value: object
) -> None:
    values = codec(kind)
    try:
        payload = values.encode(value)
    except CodecError:
        return

    assert typed(values.decode(payload)) == typed(value)


@unhurried
@given(st.data())
def test_every_value_of_a_declared_type_is_kept(data: st.DataObject) -> None:
    in_utc = st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC, fold=0))
    user = st.builds(
        User,
        id=st.uuids(),
        extensions=st.lists(st.builds(Extension, extensionNumber=st.text())).map(tuple),
        credit=st.decimals(allow_nan=False, allow_infinity=False),
        last_call=st.none() | in_utc,
    )
    ada = data.draw(user)

    assert Codec(User).decode(Codec(User).encode(ada)) == ada


@unhurried
@given(st.binary() | st.text().map(str.encode) | anything.map(repr).map(str.encode))
def test_bytes_from_a_stranger_are_a_valid_value_or_refused(payload: bytes) -> None:
    try:
        extension = Codec(Extension).decode(payload)
    except CodecError:
        return

    assert isinstance(extension.number, str)
    assert isinstance(extension.state, State)


def test_what_is_stored_is_plain_json() -> None:
    (stored,) = json.loads(Codec(User).encode(ADA))

    assert stored["id"] == str(ID)
    assert stored["extensions"] == [{"number": "1001", "state": "busy"}]


def test_each_decoding_makes_a_new_object() -> None:
    extensions = Codec(list[str])
    payload = extensions.encode(["1001"])

    extensions.decode(payload).append("1002")

    assert extensions.decode(payload) == ["1001"]


@pytest.mark.parametrize(
    "kind",
    [
        UserRow,
        ExtensionRow,
        list[UserRow],
        ExtensionRow | None,
        dict[str, list[ExtensionRow]],
        Page,
        Lax,
    ],
)
def test_an_orm_class_is_refused_wherever_it_is_nested(kind: object) -> None:
    with pytest.raises(TypeError, match="return a DTO"):
        codec(kind)


@pytest.mark.parametrize(
    "fail",
    [
        lambda: codec(object).encode({"password": ("hunter2",)}),
        lambda: codec(int).encode("hunter2"),
        lambda: Codec(User).decode(b'[{"id": "hunter2"}]'),
        lambda: Codec(User).decode(b"hunter2"),
    ],
)
def test_no_error_shows_a_value(fail: Callable[[], object]) -> None:
    with pytest.raises(CodecError) as caught:
        fail()

    # Not the frames, which show this file's own lines.
    chain = traceback.TracebackException.from_exception(caught.value)
    assert chain.__cause__ is None
    assert "hunter2" not in "".join(chain.format_exception_only())
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_type_is_read_from_what_a_function_is_annotated_to_return() -> None:
    async def find(number: str) -> Extension | None:
        raise NotImplementedError(number)

    extensions = Codec.of_result(find)

    assert extensions.decode(extensions.encode(None)) is None


def test_a_parameter_may_be_annotated_for_type_checkers_only() -> None:
    async def find(session: object) -> Extension | None:
        raise NotImplementedError(session)

    find.__annotations__["session"] = "OnlyForTypeCheckers"

    assert Codec.of_result(find).encode(None) == b"[null]"


@pytest.mark.parametrize("annotations", [{}, {"return": "OnlyForTypeCheckers"}])
def test_a_function_that_does_not_say_what_it_returns_is_refused(
    annotations: dict[str, str],
) -> None:
    async def find() -> None:
        raise NotImplementedError

    find.__annotations__ = annotations

    with pytest.raises(TypeError, match="annotate what it returns"):
        Codec.of_result(find)


def test_naive_json_brings_other_values_back(proof: Proof) -> None:
    def back(value: object) -> object:
        return codec_naive.decode(codec_naive.encode(value))

    assert back((1, 2)) == [1, 2]
    proof.breaks("A tuple", "comes back as a list")
    assert back({1001: "Ada"}) == {"1001": "Ada"}
    proof.breaks("A dict with extension numbers as int keys", "has str keys")
    assert back(Decimal("12.50")) == "12.50"
    assert back(NOON) == "2026-11-22 12:00:00+00:00"
    proof.breaks("A Decimal and a datetime", "come back as text")
    assert back(b"\xff") == "b'\\xff'"
    proof.breaks("bytes", "come back as the text of a Python literal")
    assert isinstance(back(ADA), str)
    proof.breaks("A model", "comes back as its repr")


def typed(value: object) -> object:
    """Return the value with the type of every part, by another way than the codec."""
    match value:
        case BaseModel():
            parts: object = [(name, typed(field)) for name, field in value]
        case Voicemail():
            parts = typed(value.sound), typed(value.heard_by)
        case Ring():
            parts = typed(value.seconds)
        case dict():
            parts = [(typed(key), typed(item)) for key, item in value.items()]
        case deque():
            parts = value.maxlen, [typed(item) for item in value]
        case list() | tuple():
            parts = [typed(item) for item in value]
        case set() | frozenset():
            parts = sorted(repr(typed(item)) for item in value)
        case datetime():
            parts = value.isoformat(), value.fold, value.utcoffset()
        case Enum():
            parts = value.name
        case _:
            parts = repr(value)
    return type(value).__qualname__, parts
