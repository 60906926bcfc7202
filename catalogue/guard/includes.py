"""Kind 2: an include that shows another text than the file or section it names."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import markdown

from catalogue.guard.configuration import INCLUDER
from catalogue.guard.page import NOTATION
from catalogue.guard.settings import INCLUDING
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from catalogue.guard.page import Include, Page
    from catalogue.guard.tree import Tree

RUN = re.compile(
    r"snippets/\w+/\w+\.py|tests/support/\w+\.py"
    r"|tests/(\w+/)*((test|bench)_\w+|conftest)\.py"
)
"""The files that tests import, or that pytest collects."""
FRAGMENTS = "build/fragments/"
CONFIGURATION = re.compile(
    r"pyproject\.toml|Makefile|mkdocs\.yml|\.pre-commit-config\.yaml|\.editorconfig"
    r"|\.ci/run|\.github/workflows/[\w-]+\.ya?ml"
)
"""The configuration files that this project itself uses."""
OF_A_PATTERN = ("card.md", "breaks.md", "diagram.md", "evidence.md")
MARKER = re.compile(r"# --8<-- \[(?P<edge>start|end):(?P<name>[a-z][\w-]*)\]")


class Sections:
    """The named sections of one file."""

    def __init__(self, comments: Iterable[tuple[int, str]]) -> None:
        """Find the markers among the comments that hold include notation."""
        self.spans: dict[str, tuple[int, int]] = {}
        self.faults: list[tuple[int, str]] = []
        self.marks: set[int] = set()
        opened: dict[str, int] = {}
        for number, comment in comments:
            found = MARKER.fullmatch(comment)
            if found is None:
                fault = "cannot be read as a marker; write # --8<-- [start:name]"
                self.faults.append((number, fault))
                continue
            self.marks.add(number)
            name = found["name"]
            if found["edge"] == "start" and (name in opened or name in self.spans):
                self.faults.append((number, f"a second section {name}; rename it"))
            elif found["edge"] == "start":
                opened[name] = number
            elif name in opened:
                self.spans[name] = (opened.pop(name), number)
            else:
                self.faults.append((number, f"the section {name} ends unopened"))
        self.faults += [
            (number, f"the section {name} is never closed; add [end:{name}]")
            for name, number in opened.items()
        ]


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each include and section that cannot be trusted."""
    used: dict[str, set[str]] = defaultdict(set)
    for page in tree.pages:
        yield from _on_page(tree, page)
        for include in page.in_code:
            if include.section:
                used[include.path].add(include.section)
    for path in tree.files:
        if _is_allowed(path) and NOTATION.search(tree.text(path)):
            sections = sections_of(tree, path)
            for line, fault in sections.faults:
                yield Problem(path, line, fault)
            for name, (start, _) in sections.spans.items():
                if name not in used[path]:
                    message = f"no page shows the section {name}; remove its markers"
                    yield Problem(path, start, message)


def sections_of(tree: Tree, path: str) -> Sections:
    """Return the named sections of a file."""
    if not NOTATION.search(tree.text(path)):
        return Sections([])
    lines = (
        [(one.line, one.text, one.alone) for one in tree.comments(path)]
        if path.endswith(".py")
        else [(n, line, True) for n, line in enumerate(tree.text(path).split("\n"), 1)]
    )
    return Sections(
        (number, text.strip() if alone else "")
        for number, text, alone in lines
        if NOTATION.search(text)
    )


def included_text(tree: Tree, include: Include) -> str:
    """Return the text which an include must show, with a final newline."""
    lines = tree.text(include.path).removesuffix("\n").split("\n")
    sections = sections_of(tree, include.path)
    start, end = 0, len(lines) + 1
    if include.section:
        start, end = sections.spans[include.section]
    kept = [
        line
        for number, line in enumerate(lines, 1)
        if start < number < end and number not in sections.marks
    ]
    return "\n".join(kept) + "\n"


def _on_page(tree: Tree, page: Page) -> Iterator[Problem]:
    for line in page.unreadable:
        message = 'cannot be read as an include; write --8<-- "path" alone on the line'
        yield Problem(page.path, line, message)
    for include in page.lost:
        message = "this include shows nothing on the page; take it out of the markup"
        yield Problem(page.path, include.line, message)
    for include in page.in_text:
        if not include.path.startswith(FRAGMENTS) or include.section:
            message = f"{include.target} stands outside a fence; fence it"
            yield Problem(page.path, include.line, message)
    for include in page.includes:
        fault = _fault(tree, page, include)
        if fault:
            yield Problem(page.path, include.line, fault)


def _fault(tree: Tree, page: Page, include: Include) -> str | None:
    path = include.path
    if not path:
        return (
            f"cannot read the include of {include.target!r}; "
            "name a file, or file:section, and neither lines nor an address"
        )
    if path.startswith(FRAGMENTS):
        return _fragment_fault(tree, page, path)
    if not _is_allowed(path):
        return f"no test runs {path}; move it to snippets/ or into a test"
    if path not in tree.files:
        return f"there is no file {path}; correct the path"
    return _text_fault(tree, page, include)


def _text_fault(tree: Tree, page: Page, include: Include) -> str | None:
    path = include.path
    if include.section and include.section not in sections_of(tree, path).spans:
        return f"{path} has no closed section {include.section}; correct the name"
    expected = included_text(tree, include)
    if not expected.strip():
        return f"{include.target} has no text to show; write it"
    if path.startswith("snippets/") and (
        include.section is None and expected != tree.text(path)
    ):
        return f"{path} has markers that its reader would miss; include it by section"
    if _shown(tree, include) != expected:
        return f"{path} is not shown as it stands; take out include notation and CRLF"
    fence = page.lines[include.line - 2].strip() if include.line > 1 else ""
    ticks = fence[: len(fence) - len(fence.lstrip("`"))]
    if ticks and any(line.rstrip() == ticks for line in expected.splitlines()):
        return f"{path} holds a line {ticks} that ends the fence; make the fence longer"
    return None


def _shown(tree: Tree, include: Include) -> str:
    """Return what the site's own includer makes of the directive."""
    settings = {**INCLUDING, "base_path": [str(tree.root)]}
    parser = markdown.Markdown(
        extensions=[INCLUDER], extension_configs={INCLUDER: settings}
    )
    lines = parser.preprocessors["snippet"].run([f'--8<-- "{include.target}"'])
    return "\n".join(lines).removesuffix("\n") + "\n"


def _fragment_fault(tree: Tree, page: Page, path: str) -> str | None:
    own = [pattern for pattern in tree.patterns if pattern.page == page.path]
    if own:
        folder = f"{FRAGMENTS}{own[0].category}/{own[0].slug}/"
        if path not in {folder + name for name in OF_A_PATTERN}:
            return f"{path} is not of this page; include one of {folder}"
        return None
    rendered = tree.root / FRAGMENTS
    if rendered.is_dir() and not (tree.root / path).is_file():
        return f"nothing renders {path}; correct it, or run python -m catalogue render"
    return None


def _is_allowed(path: str) -> bool:
    return bool(RUN.fullmatch(path) or CONFIGURATION.fullmatch(path))
