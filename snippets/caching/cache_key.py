"""Derive the cache key of a call, so that two different calls never share one.

A key is the function's qualified name and a 128-bit digest of its bound arguments,
defaults applied, each with its type. `f(5)` and `f(user_id=5)` share a key; `f(1)`,
`f("1")`, `f(True)` and `f(1.0)` do not, nor do Decimals 1.0 and 1.00. A key is the same
in every process, whatever PYTHONHASHSEED is, and shows no argument in clear.

What cannot be told apart for certain is refused at the call. The `repr` of an object is
not used: it may hold an address. Functions of one qualified name share their keys.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any, Generic, ParamSpec, Required, TypedDict, Unpack
from uuid import UUID
from zoneinfo import ZoneInfo

P = ParamSpec("P")


class CacheKeyError(TypeError):
    """The call cannot be given a key that is certain to be its own."""


class KeyOptions(TypedDict, total=False):
    """What makes two calls the same, beyond their arguments."""

    exclude: Collection[str]
    """Parameters that do not change the result, such as a database session."""
    key: Callable[[Mapping[str, Any]], object]
    """Given all arguments by name, defaults applied, returns what stands for them."""
    vary: Required[Callable[[], object] | None]
    """Returns what else the result depends on, such as the tenant, or several of these
    in a tuple; none may be None or empty. Say None if it depends on nothing else."""


class CacheKey(Generic[P]):
    """The keys of one function's calls: `key(*args, **kwargs)`.

    Raises `TypeError` without `vary`, if `exclude` names no parameter, and if the first
    parameter is `self` or `cls` and is neither excluded nor replaced by `key`: only the
    author knows whether two tenants, or two objects, may share a result.
    """

    def __init__(
        self,
        function: Callable[P, object],
        namespace: str,
        **options: Unpack[KeyOptions],
    ) -> None:
        """Read the signature, once."""
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._prefix = f"{namespace}:{self.name}"
        self._signature = inspect.signature(function)
        self._exclude = frozenset(options.get("exclude", ()))
        if "vary" not in options:
            raise TypeError(f"{self.name}: give vary=, or vary=None for nothing")
        self._key, self._vary = options.get("key"), options["vary"]
        self._names = tuple(self._signature.parameters)
        params = self._signature.parameters.values()
        self._plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in params)
        self._defaults = tuple(p.default for p in params if p.default is not p.empty)
        if unknown := self._exclude.difference(self._names):
            raise TypeError(f"{self.name} has no parameter {min(unknown)!r}")
        owner = {"self", "cls"}.intersection(self._names[:1]) - self._exclude
        if owner and self._key is None:
            raise TypeError(f"{self.name}: exclude {min(owner)!r}, or give key=")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key; raise `CacheKeyError`, or `TypeError` for a wrong call."""
        values = self._bind(args, kwargs)
        named = zip(self._names, values, strict=True)
        if self._key is not None:
            values = (self._key(dict(named)),)
        elif self._exclude:
            values = tuple(value for name, value in named if name not in self._exclude)
        try:
            if self._vary is not None:
                values = (*values, _present(self._vary()))
            text = "".join(map(_text, values)).encode("utf-8", "surrogatepass")
        except LookupError as error:
            raise CacheKeyError(f"{self.name} varies by what is not set") from error
        except RecursionError as error:
            raise CacheKeyError(f"{self.name}: nested too deep for a key") from error
        return f"{self._prefix}:{blake2b(text, digest_size=16).hexdigest()}"

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        missing = len(self._names) - len(args)
        if self._plain and not kwargs and 0 <= missing <= len(self._defaults):
            # As bind does, in a sixth of the time, which every hit has to pay.
            return args + self._defaults[len(self._defaults) - missing :]
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments.values())


def _present(value: object) -> object:
    parts = value if isinstance(value, tuple) else (value,)
    if not parts or any(part in (None, "", b"") for part in parts):
        raise CacheKeyError("the result varies by what is None, or empty")
    return value


def _text(value: object) -> str:
    """Return what no other value returns; the length in front says where it ends."""
    kind = type(value)
    if text_of := _BODIES.get(kind):
        name, body = kind.__name__, text_of(value)
    elif isinstance(value, Enum):
        name, body = f"{kind.__module__}.{kind.__qualname__}", _text(value.value)
    else:
        raise CacheKeyError(f"no key can tell one {kind.__qualname__} from another")
    return f"{name} {len(body)}:{body}"


def _sorted(values: Iterable[object]) -> str:
    return "".join(sorted(map(_text, values)))


def _moment(value: datetime) -> str:
    name, zone = "", value.tzinfo
    if zone is not None and zone.utcoffset(None) is None:  # it depends on the date
        if not isinstance(zone, ZoneInfo) or not zone.key:
            raise CacheKeyError("no key can tell one nameless time zone from another")
        name = zone.key
    return f"{value.isoformat()} {value.fold} {name}"


_BODIES: dict[type, Callable[[Any], str]] = {
    bool: str,
    bytes: bytes.hex,
    date: date.isoformat,
    datetime: _moment,
    Decimal: str,
    dict: lambda value: _sorted(value.items()),
    float: repr,  # the shortest text that reads back as the same number
    frozenset: _sorted,
    int: "{:x}".format,
    list: lambda value: "".join(map(_text, value)),
    set: _sorted,
    str: str,
    timedelta: str,
    tuple: lambda value: "".join(map(_text, value)),
    type(None): str,
    UUID: str,
}
