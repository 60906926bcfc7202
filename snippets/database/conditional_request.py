"""Let a client change only what it has seen, and be spared what it has already.

`etag` names a state of a resource, and a client sends it back: with `If-Match`, nothing
is changed that is no longer in that state; with `If-None-Match`, nothing is sent again.
A header that cannot be read never lets a write through. Tags are compared in time in
proportion to their length, which the server limits; dates are not compared at all.

A check is no lock: between it and the write another one may write. So the write itself
must check the version, as `optimistic_lock` does.

Source: RFC 9110, sections 8.8.3, 13.1.1 and 13.1.2.
"""

import re
from collections.abc import Sequence

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[\t ,]*+(?:{_TAG}[\t ]*+(?:,[\t ,]*+|$))++")
_OPAQUE = re.compile(r"[\x21\x23-\x7e]+")


class TagSyntaxError(ValueError):
    """A header is neither a list of entity tags nor `*`: status 400."""


class PreconditionFailedError(Exception):
    """The resource is in none of the states that the client expects: status 412."""


class PreconditionRequiredError(Exception):
    """The client does not say which state it expects: status 428 (RFC 6585)."""


def etag(version: int | str, *variant: str) -> str:
    """Return the strong tag of a version of a resource.

    Strong means the same bytes, so what else decides on them (a language, a format)
    belongs into `variant`. Raises `ValueError` for a character that no tag may have.
    """
    opaque = "-".join((str(version), *variant))
    if not _OPAQUE.fullmatch(opaque):
        raise ValueError("a tag is made of visible ASCII characters without quotes")
    return f'"{opaque}"'


def check_if_match(header: str | None, current: str | None) -> None:
    """Let a write pass only if the client expects the resource's current strong tag.

    `current` is None if there is no such resource, which fails even for `*`. Weak tags
    match nothing. Raises one of this module's errors. Several header lines are joined
    by a comma first.
    """
    if header is None:
        raise PreconditionRequiredError("If-Match is missing: say what you have seen")
    is_expected = header.strip("\t ") == "*" or current in _tags(header)
    if current is None or current.startswith("W/") or not is_expected:
        raise PreconditionFailedError("it has changed, or is gone: read it again")


def is_not_modified(header: str | None, current: str) -> bool:
    """Return whether `If-None-Match` names the current state, weakly compared.

    If so, a GET is answered by status 304 with the same tag. A header that cannot be
    read names nothing.
    """
    if header is None:
        return False
    if header.strip("\t ") == "*":
        return True
    try:
        known = _tags(header)
    except TagSyntaxError:
        return False
    return current.removeprefix("W/") in (tag.removeprefix("W/") for tag in known)


def _tags(header: str) -> Sequence[str]:
    """Return the tags of a list, in which RFC 9110, 5.6.1, allows empty elements."""
    if not _TAGS.fullmatch(header):
        raise TagSyntaxError("this is no list of entity tags")
    return re.findall(_TAG, header)
