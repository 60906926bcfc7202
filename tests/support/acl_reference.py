"""The grammar of grants once more, character by character, for tests only.

Nothing of `snippets.auth` is used. A pattern is a tuple of tokens: a character, the
wildcards `*` and `#`, or a reserved word with all that it may stand for.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Words = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Star:
    """Any characters but `.` and `#`."""


@dataclass(frozen=True)
class Hash:
    """Any characters."""


Token = str | Star | Hash | frozenset[str]
Tokens = tuple[Token, ...]


def words(
    auth_id: str | None, session_uuid: str | None = None, tenant_uuid: str | None = None
) -> dict[str, frozenset[str]]:
    """Return what each reserved word may stand for, for a caller with these ids."""
    meanings = {"edit": frozenset({"edit", "update"})}
    own = {"me": auth_id, "my_session": session_uuid, "my_tenant": tenant_uuid}
    for word, value in own.items():
        ids = {value, value.replace(".", "_")} if value else set()
        meanings[word] = frozenset({word} | ids)
    return meanings


def tokens(pattern: str, meanings: Words) -> Tokens:
    """Return the tokens of a pattern without its `!`."""
    found: list[Token] = []
    for number, word in enumerate(pattern.split(".")):
        if number:
            found.append(".")
        if word in meanings:
            found.append(meanings[word])
        else:
            kinds: dict[str, Token] = {"*": Star(), "#": Hash()}
            found.extend(kinds.get(char, char) for char in word)
    return tuple(found)


def accepts(pattern: Tokens, text: str) -> bool:
    """Return whether the tokens match the whole text."""

    @cache
    def from_here(number: int, place: int) -> bool:
        if number == len(pattern):
            return place == len(text)
        token = pattern[number]
        if isinstance(token, frozenset):
            return any(
                text.startswith(word, place)
                and from_here(number + 1, place + len(word))
                for word in token
            )
        char = text[place : place + 1]
        if isinstance(token, str):
            return token == char and from_here(number + 1, place + 1)
        may_stay = bool(char) and (isinstance(token, Hash) or char not in ".#")
        return from_here(number + 1, place) or (
            may_stay and from_here(number, place + 1)
        )

    return from_here(0, 0)


def decide(acl: Iterable[str], required: str, meanings: Words) -> bool:
    """Return whether the grants allow what is required."""
    if any(unicodedata.category(char) == "Cc" for char in required):
        return False
    verdicts = {
        one.startswith("!")
        for one in acl
        if accepts(tokens(one.removeprefix("!"), meanings), required)
    }
    return verdicts == {False}


def share_a_text(one: Tokens, other: Tokens) -> bool:
    """Return whether some text is matched by both."""
    alphabet = {"\N{SNOWMAN}", "."}  # the first stands for all that neither names
    for token in (*one, *other):
        alphabet.update(*token if isinstance(token, frozenset) else {str(token)})
    letters = {char for char in alphabet if len(char) == 1}
    seen = {(one, other)}
    waiting = [*seen]
    while waiting:
        left, right = waiting.pop()
        if _is_over(left) and _is_over(right):
            return True
        for char in letters:
            pairs = {
                (a, b) for a in _after(left, char) for b in _after(right, char)
            } - seen
            seen |= pairs
            waiting.extend(pairs)
    return False


def _is_over(pattern: Tokens) -> bool:
    return all(isinstance(token, Star | Hash) for token in pattern)


def _after(pattern: Tokens, char: str) -> Iterator[Tokens]:
    """Yield what may be left of a pattern when it has read a character."""
    if not pattern:
        return
    token, rest = pattern[0], pattern[1:]
    if isinstance(token, frozenset):
        for word in token:
            yield from _after((*word, *rest), char)
    elif isinstance(token, str):
        if token == char:
            yield rest
    else:
        if isinstance(token, Hash) or char not in ".#":
            yield pattern
        yield from _after(rest, char)
