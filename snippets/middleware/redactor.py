"""Take passwords, tokens and card numbers out of what is about to be logged.

A value is masked whole if its name, lower case and without signs, contains that of a
secret: `client_secret`, `X-Auth-Token`, `user%5Fpassword`. So it is at any depth of a
JSON text, in forms, query strings and headers. Thirteen digits or more in a row, with
blanks or hyphens between them, are taken for a card number wherever they stand. What
cannot be read as what it says it is, such as half a JSON text, is not shown at all.

In text, pairs such as `token=a`, `token%3Da` and `"token": "a"` are masked up to a
blank, a comma or the quote that ends the value, and who logs in at an address is too. A
secret that no such name announces is shown: `token a`, `a` in `authorization=Basic a`.
What comes out has no control characters: it cannot begin a line of its own.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

MASK = "***"
SECRET_NAMES = frozenset(
    {"apikey", "authorization", "cookie", "credential", "passphrase"}
    | {"passwd", "password", "privatekey", "secret", "token"}
)
CARD = re.compile(r"\d(?:[\s-]*\d){12,}")
THIRTEEN_DIGITS = 10**12
IS = "=|%(?:25)*3D"  # as it is, or encoded once or more
NAME = rf"""(?:(?!{IS})[^\s&;,?"'])+"""
PAIR = re.compile(rf"""({NAME})(["']?\s*(?:{IS})\s*|["']\s*:\s*)?""", re.IGNORECASE)
QUOTED = r"""(\\*["']).*?(?:(?<!\\)\1|\Z)"""
VALUE = re.compile(rf"(?s:[{{\[].*|(?:{QUOTED})?[^\s&;,]*)")
LOGIN = re.compile(r"(?<=://)[^\s/?#]*@")
NESTED = re.compile("%(?:25)+")
FIELD = re.compile(r"{(\w+)(?::\w+)?}")
LATER = re.compile(r"(?s)^(/?+[^/\\]*[/\\]).+")
SIGNS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Redactor:
    """Masks what has one of these `names`, in lower case and without signs, in it."""

    names: Collection[str] = SECRET_NAMES

    def __post_init__(self) -> None:
        """Raise `ValueError` for a name that would never be found, or always."""
        for name in self.names:
            if not name or name != _plain(name):
                raise ValueError(f"no name contains {name!r}; write {_plain(name)!r}")

    def is_secret(self, name: str) -> bool:
        """Return whether what has this name must not be shown."""
        plain = _plain(name)
        return any(secret in plain for secret in self.names)

    def text(self, text: str) -> str:
        """Mask card numbers and pairs like `token=abc`; escape control characters."""
        if any(sign in text for sign in "=:%"):
            text = self._without_pairs(LOGIN.sub(f"{MASK}@", text))
        text = CARD.sub(MASK, text)
        if text.isprintable():
            return text
        return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)

    def value(self, value: object) -> object:
        """Return a copy of what JSON can hold, with everything secret masked."""
        match value:
            case dict():
                pairs = ((str(name), inner) for name, inner in value.items())
                return {
                    self.text(name): MASK if self.is_secret(name) else self.value(inner)
                    for name, inner in pairs
                }
            case list() | tuple():
                return [self.value(inner) for inner in value]
            case str():
                return self.text(value)
            case int() | float():
                return value if abs(value) < THIRTEEN_DIGITS else MASK  # as is NaN
            case _:
                return None if value is None else f"<{type(value).__name__}>"

    def query(self, query: str) -> str:
        """Return a query string or a form, decoded, with everything secret masked."""
        if not query:
            return query
        pairs = parse_qsl(query, keep_blank_values=True, errors="backslashreplace")
        return "&".join(
            f"{self.text(name)}={MASK if self.is_secret(name) else self.text(value)}"
            for name, value in pairs
        )

    def headers(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """Return headers by name; the values of one that stands twice are joined."""
        shown: dict[str, str] = {}
        for raw_name, raw_value in headers:
            name = self.text(raw_name.decode("latin-1").lower())
            value = MASK
            if not self.is_secret(name):
                value = self.text(raw_value.decode("latin-1"))
            shown[name] = f"{shown[name]}, {value}" if name in shown else value
        return shown

    def path(
        self, path: str, template: str | None, parameters: Mapping[str, object]
    ) -> str:
        """Return a path, or its route's masked `template` if a parameter is secret.

        Where no route is known, only the first segment is shown: any other may be a
        secret. The same goes for a parameter without a value.
        """
        if template is None or not template.startswith("/"):
            path = LATER.sub(rf"\1{MASK}", path)
        else:
            names = {*parameters, *FIELD.findall(template)}
            if names - parameters.keys() or any(map(self.is_secret, names)):
                path = FIELD.sub(MASK, template)
        return self.text(path)

    def body(self, body: bytes, content_type: str, size: int | None = None) -> object:
        """Return what JSON or a form holds; of a part of `size` bytes only the size."""
        size = len(body) if size is None else size
        kind = content_type.partition(";")[0].strip().lower()
        is_json = kind == "application/json" or kind.endswith("+json")
        try:
            if is_json and size == len(body):
                return self.value(json.loads(body))
            if kind == "application/x-www-form-urlencoded" and size == len(body):
                return self.query(body.decode())
        except (ValueError, RecursionError):
            pass  # it is not what it says, so nobody knows what in it is secret
        return f"<{size} bytes>"

    def _without_pairs(self, text: str) -> str:
        shown, end = "", 0
        for pair in PAIR.finditer(text):
            name = unquote_plus(NESTED.sub("%", pair[1]))
            if pair[2] and pair.start() >= end and self.is_secret(name):
                shown += text[end : pair.end()] + MASK
                end = next(VALUE.finditer(text, pair.end())).end()
        return shown + text[end:]


def _plain(name: str) -> str:
    if name.isascii() and name.isidentifier():
        return name.replace("_", "").lower()  # the same, and most names are so
    return SIGNS.sub("", unicodedata.normalize("NFKC", name).casefold())
