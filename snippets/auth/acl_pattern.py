"""Match dotted text with wildcards and reserved words, in bounded time.

`*` stands for any text without `.` and `#`, and `#` for any text; both also for none. A
reserved word that stands alone between dots also stands for what `words` says, compared
as text and never made part of a pattern. All else stands for itself. A pattern matches
the whole text, or not at all.

A pattern is compiled once, whoever uses it. A match takes one step for each part of the
pattern, and one for each place where a literal part stands in the text; a step grows
with the text, so bound its length. `AnyText` asks whether two patterns share a text.

Source: bit-parallel simulation, as in Baeza-Yates and Gonnet, "A New Approach to Text
Searching", CACM 1992; each set of places in the text is one int.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import NamedTuple

KEPT_PATTERNS = 2**14  # compiled, for all users together
Words = Mapping[str, Sequence[str]]
"""What each reserved word stands for, itself included."""

_PART = re.compile(r"([*#]+|(?<![^.])(?:me|my_session|my_tenant|edit)(?![^.]))")


class Pattern(NamedTuple):
    """Literal text, then pairs of wildcards or a reserved word and literal text.

    What it matches begins with `prefix` and has `needle` somewhere.
    """

    prefix: str
    needle: str
    rest: tuple[tuple[str, str], ...]


@lru_cache(KEPT_PATTERNS)
def compile_pattern(text: str) -> Pattern:
    """Return the pattern that a text describes; every text describes one."""
    prefix, *parts = _PART.split(text)
    literals = parts[1::2]
    needle = max([prefix, *literals], key=lambda one: max(map(len, one.split("."))))
    return Pattern(prefix, needle, tuple(zip(parts[::2], literals, strict=True)))


def matches(pattern: Pattern, text: str, words: Words) -> bool:
    """Return whether the pattern matches the text from its start to its end."""
    prefix, _, rest = pattern
    if not rest or not text.startswith(prefix):
        return text == prefix
    start = len(prefix)
    if len(rest) > 1:
        for part, literal in rest[:-1]:
            start = _only_way(part, literal, text, start, words)
            if start < 0:
                return _Text(text).is_matched(pattern, words)
    part, suffix = rest[-1]
    end = len(text) - len(suffix)
    if end < start or not text.endswith(suffix):
        return False
    between = text[start:end]
    if part in words:
        return between in words[part]
    return "#" in part or not ("." in between or "#" in between)


def _only_way(part: str, literal: str, text: str, start: int, words: Words) -> int:
    """Return the only place to which the parts lead; -1 without one, or with more."""
    if part in words:
        found = [one for one in words[part] if text.startswith(one + literal, start)]
        return start + len(found[0] + literal) if len(found) == 1 else -1
    stop = text.find(".", start)
    is_next = stop >= 0 and text.startswith(literal, stop)
    if "#" in part or not is_next or "#" in text[start:stop]:
        return -1
    return stop + len(literal)


class _Text:
    """A text to match; a set of places in it is an int, whose bit 0 is the start."""

    def __init__(self, text: str) -> None:
        self._text, self._end, self._start = text, 1 << len(text), 1
        self._found: dict[str, int] = {}

    def is_matched(self, pattern: Pattern, words: Words) -> bool:
        """Return whether the pattern leads from the start to the end."""
        at = self._after(self._start, pattern.prefix)
        for part, literal in pattern.rest:
            if not at:
                break
            if part in words:
                at = reduce(or_, [self._after(at, word) for word in words[part]])
            elif "#" in part:
                at = 2 * self._end - (at & -at)  # the first place and all after it
            else:
                at = _through(at, self._open())
            at = self._after(at, literal)
        return bool(at & self._end)

    def _after(self, at: int, literal: str) -> int:
        """Return the places to which the literal text leads."""
        return (at & self._places(literal)) << len(literal) if literal else at

    def _open(self) -> int:
        """Return the places that `*` can pass."""
        return (self._end - 1) & ~(self._places(".") | self._places("#"))

    def _places(self, literal: str) -> int:
        """Return the places at which the literal text stands."""
        if (found := self._found.get(literal)) is None:
            found, where = 0, self._text.find(literal)
            while where >= 0:
                found |= 1 << where
                where = self._text.find(literal, where + 1)
            self._found[literal] = found
        return found


class AnyText(_Text):
    """Whatever text a pattern without reserved words matches.

    `is_matched` tells whether another pattern matches at least one of these texts.
    """

    def __init__(self, pattern: str) -> None:
        """Take the wildcards for places that can be passed, or be stayed at."""
        super().__init__(pattern)
        self._hashes = self._places("#")
        self._wild = self._hashes | self._places("*")
        self._start = _through(1, self._wild)

    def _after(self, at: int, literal: str) -> int:
        for char in literal:
            stay = at & (self._hashes if char in ".#" else self._wild)
            step = (at & self._places(char)) << 1
            at = _through(stay | step, self._wild)
        return at

    def _open(self) -> int:
        return (self._end - 1) & ~self._places(".")


def _through(at: int, passable: int) -> int:
    """Return the places reached from `at` by way of those that can be passed."""
    # An addition carries a bit through the run of ones in which it stands.
    return at | ((passable + (at & passable)) ^ passable)
