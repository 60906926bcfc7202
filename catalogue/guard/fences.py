"""Kind 1: code that somebody typed into a page instead of including what was run."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.page import Include, Page
    from catalogue.guard.tree import Tree

OPENING = re.compile(
    r"(?P<indent>[ \t]*)(?P<fence>`{3,})(?P<language>[a-z]+)"
    r'(?: title="(?P<title>[^"]+)")?'
)
MEND = "put it into a file that a test runs and include that file"
TAGS = re.compile(
    r"""
    a | abbr | blockquote | br | button | caption | code | col | colgroup | dd | del
    | details | div | dl | dt | em | fieldset | figcaption | figure | footer | form
    | h1 | h2 | h3 | h4 | h5 | h6 | header | hr | i | img | input | ins | label |
    legend | li | mark | nav | ol | option | output | p | path | pre | section |
    select | small | span | strong | sub | summary | sup | svg | table | tbody | td
    | tfoot | th | thead | time | tr | ul
    """,
    re.VERBOSE,
)
"""The elements a page may have; none of the others shows text as code or runs it."""
ATTRIBUTES = re.compile(
    r"""
    abbr | alt | autocapitalize | autocomplete | autofocus | checked | class |
    colspan | d | datetime | decoding | download | enterkeyhint | fill | for |
    height | href | id | lang | loading | markdown | max | min | multiple | name |
    open | placeholder | rel | reversed | role | rowspan | scope | spellcheck | src
    | start | tabindex | title | type | viewbox | width | xmlns
    | aria-[a-z]+ | data-search-exclude | data-sp-[a-z-]+ | data-tabs
    """,
    re.VERBOSE,
)
ALIGNED = re.compile(r"text-align: (left|right|center);")
HIDDEN_CODE = re.compile(r"`{3}|~{3}|</?[a-z]+|\n\s*\n|\n {4}|\n\t")
CODE_TAGS = "(pre|code|samp|tt|kbd|xmp|listing|plaintext|textarea)"
MARKED_UP = re.compile(rf"(?i)<{CODE_TAGS}\b|createElement\(.{CODE_TAGS}\b")
LOOKS_LIKE_CODE = re.compile(r"code|highlight|mono")
SHELL = re.compile(
    r"(\$|>>>|curl|docker|git|pip|psql|python3?|redis-cli|uv) \S+( \S+){0,9}"
)


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each piece of code on a page that is not exactly one include."""
    for page in tree.pages:
        yield from _typed(page)
        yield from _markup(page)
        yield from _prose(page)
        yield from _front_matter(tree, page)
    for path in [*tree.below("overrides", ""), *tree.below("docs/assets", ".js")]:
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if MARKED_UP.search(line):
                message = f"code made by a template or a script; {MEND}"
                yield Problem(path, number, message)


def _typed(page: Page) -> Iterator[Problem]:
    for block in page.blocks:
        if block.include:
            yield from _fence(page, block.include)
        else:
            words = " ".join(block.text.split())[:40]
            message = f"code typed by hand ({words!r}); {MEND}"
            yield Problem(page.path, page.line(block), message)
    for span in page.spans:
        if span.include:
            message = "an include in a line of text; give it a fence of its own"
            yield Problem(page.path, span.include.line, message)


def _fence(page: Page, include: Include) -> Iterator[Problem]:
    """Require the three lines of a plain fence: opening, include, closing."""
    before, line, after = (
        page.lines[number] if 0 <= number < len(page.lines) else ""
        for number in range(include.line - 2, include.line + 1)
    )
    found = OPENING.fullmatch(before)
    indent = line[: len(line) - len(line.lstrip())]
    if (
        found is None
        or found["indent"] != indent
        or after != found["indent"] + found["fence"]
    ):
        yield Problem(
            page.path,
            include.line,
            "not a plain fence; write ```python, the include and ``` on three lines, "
            'with no option but title="<the included file>"',
        )
    elif found["title"] not in {None, include.path, include.target}:
        message = f"the title {found['title']!r} is not the file; write {include.path}"
        yield Problem(page.path, include.line - 1, message)


def _markup(page: Page) -> Iterator[Problem]:
    for element in page.soup.find_all():
        if element.find_parent("pre"):
            continue
        if not TAGS.fullmatch(element.name):
            line = page.locate(f"<{element.name}")
            message = f"<{element.name}> cannot be checked; write it in Markdown"
            yield Problem(page.path, line, message)
        classes = " ".join(map(str, element.get_attribute_list("class")))
        if LOOKS_LIKE_CODE.search(classes) and not element.find("pre"):
            message = f"the class {classes} makes text look like code; {MEND}"
            yield Problem(page.path, page.locate(classes), message)
        for name, value in element.attrs.items():
            if ATTRIBUTES.fullmatch(name):
                continue
            if name == "style" and ALIGNED.fullmatch(str(value)):
                continue
            message = f"the attribute {name} cannot be checked; use a class"
            yield Problem(page.path, page.locate(f"{name}="), message)


def _prose(page: Page) -> Iterator[Problem]:
    for text in page.prose:
        for line in text.splitlines():
            if _is_statement(line.strip()):
                message = f"code typed as prose ({line.strip()[:40]!r}); {MEND}"
                yield Problem(page.path, page.locate(line), message)


def _is_statement(line: str) -> bool:
    if SHELL.fullmatch(line) and not line.endswith("."):
        return True
    if not re.search(r"[=:]|\w\(|\bimport\b", line):
        return False
    try:
        body = ast.parse(f"{line} pass" if line.endswith(":") else line).body
    except (SyntaxError, ValueError):
        return False
    return any(map(_does_something, body))


def _does_something(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=value):
            return isinstance(value, ast.Call | ast.Await)
        case ast.AnnAssign(value=None):
            return False  # as is any word with a colon behind it
        case _:
            return True


def _front_matter(tree: Tree, page: Page) -> Iterator[Problem]:
    for text in page.fields:
        found = HIDDEN_CODE.search(text)
        if found:
            words = found.group().strip() or text.split("\n")[0]
            line = tree.line_of(page.path, words)
            message = "markup in the front matter; say it in the page's text"
            yield Problem(page.path, line, message)
