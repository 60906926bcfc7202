"""Reading a page as the site reads it: with the site's own Markdown extensions.

Only the extension that fetches includes is left out. Each include directive becomes a
word that no page holds, so that the HTML tells where its file would land. The lines
that problems name are lines of the source.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import markdown
from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString
from mkdocs.utils.meta import get_data

from catalogue.errors import CatalogueError
from catalogue.guard.configuration import INCLUDER, SITE, extensions

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTATION = re.compile(r"-+8<-+")
DIRECTIVE = re.compile(r'(?P<indent>[ \t]*)--8<-- "(?P<target>[^"\\]+)"')
TARGET = re.compile(
    r"(?P<path>(?!.*\.\.)[\w.][\w./-]*)(?::(?P<section>[A-Za-z][\w-]*))?"
)
WORD = re.compile(r"zqinclude(\d+)zq")
CODE = ["pre", "code"]
INLINE = {"a", "abbr", "code", "del", "em", "ins", "mark", "small", "span", "strong"}
"""The elements that do not part the words around them."""


@dataclass(frozen=True)
class Include:
    """One include directive: what it asks for, and on which line."""

    target: str
    line: int
    path: str
    """The file's path; empty when the target cannot be read."""
    section: str | None
    """The named section; None when the whole file is meant."""


@dataclass(frozen=True)
class Code:
    """Text that a page shows as code, and the include that it consists of, if any."""

    text: str
    include: Include | None


@dataclass(frozen=True)
class Heading:
    """A heading, its level and its anchor."""

    level: int
    text: str
    anchor: str


@dataclass
class Page:
    """What the site makes of one Markdown text."""

    path: str
    lines: list[str]
    first: int
    meta: dict[str, Any]
    soup: BeautifulSoup
    includes: list[Include]
    unreadable: list[int]
    blocks: list[Code] = field(default_factory=list)
    spans: list[Code] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    shown: list[tuple[Include, bool]] = field(default_factory=list)
    """The includes in the order of the page, and whether each lands in code."""
    offset: int = 0
    """How many lines of its file stand before the text."""
    _seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def in_code(self) -> list[Include]:
        """The includes that the page shows as code."""
        return [include for include, in_code in self.shown if in_code]

    @property
    def in_text(self) -> list[Include]:
        """The includes that become part of the text."""
        return [include for include, in_code in self.shown if not in_code]

    @property
    def lost(self) -> list[Include]:
        """The includes which the page shows nowhere."""
        shown = {include for include, _ in self.shown}
        return [include for include in self.includes if include not in shown]

    @property
    def fields(self) -> list[str]:
        """The texts in the front matter."""
        return list(_strings(self.meta))

    @property
    def words(self) -> int:
        """How many words of prose the page holds."""
        return sum(len(text.split()) for text in self.prose)

    @property
    def said(self) -> list[str]:
        """What the page says: its paragraphs, with code in them, and front matter."""
        paragraphs: list[str] = []
        last = None
        for string in self.soup.find_all(string=True):
            if isinstance(string, PreformattedString) or string.find_parent("pre"):
                continue
            block = next(one for one in string.parents if one.name not in INLINE)
            if block is not last:
                paragraphs.append("")
            paragraphs[-1] += string
            last = block
        return paragraphs + self.fields

    def line(self, code: Code) -> int:
        """Return the line on which a piece of code stands."""
        if code.include:
            return code.include.line
        inner = WORD.search(code.text)
        if inner:
            return self.includes[int(inner[1])].line
        return self.locate(code.text, before="`")

    def locate(self, text: str, before: str = "") -> int:
        """Return the line of the next occurrence of `text`, best after `before`.

        Asked again for the same text, it goes on behind the place that it named last.
        Text that stands nowhere as it is, because markup parts it, is found by its
        longest word.
        """
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        words = sorted(re.findall(r"[\w.]{3,}", first), key=len, reverse=True)
        whole = rf"[\s>]*{re.escape(first)}\s*$"
        parts = (rf".*(?<!\w){re.escape(one)}(?!\w)" for one in (first, *words))
        for form in (whole, rf".*{re.escape(before + first)}", *parts):
            found = [line for line, words in self._unescaped if re.match(form, words)]
            if first and found:
                nth = min(self._seen[form], len(found) - 1)
                self._seen[form] += 1
                return found[nth] + self.offset
        return min(self.first, max(len(self.lines), 1)) + self.offset

    def place(self, found: re.Match[str]) -> int:
        """Return the line of what was found in what the page says.

        Where markup parts the words, its line is that of the group `number`.
        """
        words = found.group()
        whole = any(words in line for _, line in self._unescaped)
        return self.locate(words if whole else found["number"])

    @cached_property
    def _unescaped(self) -> list[tuple[int, str]]:
        return [
            (number, html.unescape(line))
            for number, line in enumerate(self.lines, 1)
            if number >= self.first
        ]


class Reader:
    """A Markdown parser set up as the site's is."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        """Load the extensions that the site's configuration names."""
        wanted = dict(extensions(configuration))
        wanted.pop(INCLUDER, None)
        try:
            self._markdown = markdown.Markdown(
                extensions=list(wanted), extension_configs=wanted
            )
        except (ImportError, AttributeError, KeyError, TypeError) as error:
            message = f"{SITE}:1: an extension cannot be loaded: {error}; correct it"
            raise CatalogueError(message) from error
        self._cached = lru_cache(maxsize=4096)(self._read)

    def read(self, path: str, text: str, offset: int = 0) -> Page:
        """Return what the site makes of the Markdown below line `offset` of `path`."""
        page = self._cached(path, text)
        return replace(page, offset=offset, _seen=defaultdict(int))

    def _read(self, path: str, text: str) -> Page:
        body, meta = get_data(text)
        skipped = text.count("\n") - body.count("\n")
        includes: list[Include] = []
        unreadable: list[int] = []
        marked: list[str] = []
        for number, line in enumerate(body.split("\n"), skipped + 1):
            directive = DIRECTIVE.fullmatch(line)
            if directive:
                marked.append(f"{directive['indent']}zqinclude{len(includes)}zq")
                found = TARGET.fullmatch(directive["target"])
                path_and_section = found.groups() if found else ("", None)
                include = Include(directive["target"], number, *path_and_section)
                includes.append(include)
            else:
                marked.append(line)
                if NOTATION.search(line) or WORD.search(line):
                    unreadable.append(number)
        self._markdown.reset()
        page = Page(
            path=path,
            lines=text.removesuffix("\n").split("\n"),
            first=skipped + 1,
            meta=meta,
            soup=BeautifulSoup(
                self._markdown.convert("\n".join(marked)), "html.parser"
            ),
            includes=includes,
            unreadable=unreadable,
        )
        _sort(page)
        return page


def _sort(page: Page) -> None:
    """Sort what the HTML holds into headings, code and prose."""
    for permalink in page.soup.find_all("a", class_="headerlink"):
        permalink.extract()
    for heading in page.soup.find_all(re.compile(r"^h[1-6]$")):
        words = heading.get_text().strip()
        anchor = str(heading.get("id", ""))
        page.headings.append(Heading(int(heading.name[1]), words, anchor))
    code: set[int] = set()
    for element in page.soup.find_all(CODE):
        if id(element) not in code:
            code.update(map(id, element.descendants))
            text = element.get_text()
            found = WORD.fullmatch(text.strip())
            include = page.includes[int(found[1])] if found else None
            kind = page.blocks if element.name == "pre" else page.spans
            kind.append(Code(text, include))
    for string in page.soup.find_all(string=True):
        if isinstance(string, PreformattedString):
            continue  # a comment or a declaration, which no reader sees
        in_code = id(string) in code
        for number in WORD.findall(string):
            page.shown.append((page.includes[int(number)], in_code))
        rest = WORD.sub("", string).strip()
        if rest and not in_code and not _is_file_name(string):
            page.prose.append(rest)


def _is_file_name(string: NavigableString) -> bool:
    """Whether the text is the title of a block of code."""
    return string.parent is not None and string.parent.get("class") == ["filename"]


def _strings(value: object) -> Iterator[str]:
    """Yield the texts of a front matter."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
