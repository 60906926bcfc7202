"""Decide by dotted wildcard grants what a caller may do.

A grant such as `users.*.read` is a pattern, see `acl_pattern`. As whole words, `me`,
`my_session` and `my_tenant` also stand for the caller's own ids, and `edit` for
`update`. A grant that begins with `!` denies, whatever others allow. What no grant
allows is denied, and so is text that is very long or has control characters. What is
required is plain text: wildcards and reserved words in it are compared as they stand.

An id matches itself, and with `_` for each `.`, as it stands in a permission made of a
path. So `a.b` and `a_b` are one caller: use UUIDs.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import product

from snippets.auth.acl_pattern import AnyText, compile_pattern, matches

LONGEST = 4096
"""Characters of what may be required; a match takes longer for each of them."""

MOST_EDITS = 4
"""Each word `edit` doubles the meanings to weigh; with more, only a superuser may."""

_EDIT = ("edit", "update")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class AccessCheck:
    """What the caller with these ids and grants may do.

    An id that is None or empty is nobody's. `is_superuser` tells of the grant `#`
    without any denial.
    """

    def __init__(
        self,
        auth_id: str | None,
        session_uuid: str | None,
        acl: Iterable[str],
        tenant_uuid: str | None = None,
    ) -> None:
        """Look up the patterns; only those that nobody had before are compiled."""
        grants = tuple(acl)
        self._allowed = [compile_pattern(one) for one in grants if one[:1] != "!"]
        self._denied = [compile_pattern(one[1:]) for one in grants if one[:1] == "!"]
        self._words = {
            "me": _own("me", auth_id),
            "my_session": _own("my_session", session_uuid),
            "my_tenant": _own("my_tenant", tenant_uuid),
            "edit": _EDIT,
        }
        self.is_superuser = "#" in grants and not self._denied

    def matches_required_access(self, required: str | None) -> bool:
        """Return whether the caller may do what is required; None is always allowed."""
        if required is None:
            return True
        if not required.isprintable() and _CONTROL.search(required):
            return False
        if len(required) > LONGEST:
            return False
        words = self._words
        # Few grants have their needle in the text, so few are looked at twice.
        for denial in self._denied:
            if denial[1] in required and matches(denial, required, words):
                return False
        for grant in self._allowed:
            if grant[1] in required and matches(grant, required, words):
                return True
        return False

    def may_add_access(self, access: str) -> bool:
        """Return whether the caller may give this grant to others.

        A denial may be given by all. Any other grant must be allowed as plain text,
        with each meaning of `edit`; with a wildcard, it must match nothing that the
        caller is denied.
        """
        if access.startswith("!"):
            return True
        if _edits(access) > MOST_EDITS:
            return self.is_superuser and self.matches_required_access(access)
        texts = _spellings(access)
        return all(map(self.matches_required_access, texts)) and self._is_free(access)

    def may_remove_access(self, access: str) -> bool:
        """Return whether the caller may take this grant or denial from others.

        Without its `!` it must be allowed as plain text; with a wildcard, it must match
        nothing that the caller is denied.
        """
        access = access.removeprefix("!")
        return self.matches_required_access(access) and self._is_free(access)

    def _is_free(self, access: str) -> bool:
        """Return whether wildcards in `access` reach nothing that is denied."""
        if not self._denied or not {"*", "#"} & set(access):
            return True
        return _edits(access) <= MOST_EDITS and not any(
            texts.is_matched(denial, self._words)
            for texts in map(AnyText, _spellings(access))
            for denial in self._denied
        )


def _own(word: str, value: str | None) -> tuple[str, ...]:
    """Return what a word that stands for the caller's own id matches."""
    own = (value, value.replace(".", "_")) if value else ()
    return tuple(dict.fromkeys((word, *own)))


def _edits(access: str) -> int:
    return access.split(".").count("edit")


def _spellings(access: str) -> Iterator[str]:
    """Yield `access` with each word `edit` in both its meanings."""
    words = access.split(".")
    for chosen in product(*(_EDIT if word == "edit" else (word,) for word in words)):
        yield ".".join(chosen)
