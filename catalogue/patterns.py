"""Discovery of the patterns: what a path says about a pattern, and what its page says.

A pattern's id is its path, `caching/cached`. Everything that can be derived from the
path is derived here; the rest stands in the front matter of the pattern's page.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator

from catalogue import plain_yaml, sources
from catalogue.errors import CatalogueError
from catalogue.strict import Strict, first_fault

if TYPE_CHECKING:
    import yaml

ROOT = Path(__file__).resolve().parent.parent
PatternId = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*/[a-z][a-z0-9_]*$")
]
TestId = Annotated[str, StringConstraints(pattern=r"^tests(/\w+)+\.py::test_\w+$")]
OWN_MODULE = re.compile(r"(snippets|tests)(\.\w+)+")
ROLES = ("usage", "naive", "wiring")
MOST_WORDS = 25


class Composition(Strict):
    """Another pattern that this one is used with, and the test in which both run."""

    pattern: PatternId
    test: TestId


class FrontMatter(Strict):
    """What a page says of its pattern and no path can tell."""

    title: str = Field(min_length=1)
    description: str
    tags: list[str] = Field(min_length=1)
    maturity: Literal["new", "stable"]
    symptoms: list[str] = Field(min_length=1)
    composes_with: list[Composition]

    @field_validator("description")
    @classmethod
    def _one_short_sentence(cls, value: str) -> str:
        words = len(value.split())
        if not 0 < words <= MOST_WORDS or not value.endswith("."):
            message = (
                f"one sentence of at most 25 words, with its full stop, not {words}"
            )
            raise ValueError(message)
        return value


@dataclass(frozen=True)
class Pattern:
    """One pattern: an id, and the paths that follow from it, relative to `root`."""

    id: str
    root: Path

    @property
    def category(self) -> str:
        """The folder, `caching`."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The module's name, `stale_refresh`."""
        return self.id.partition("/")[2]

    @property
    def slug(self) -> str:
        """The page's name, `stale-refresh`."""
        return self.name.replace("_", "-")

    @property
    def module(self) -> str:
        """The dotted name of the module, `snippets.caching.stale_refresh`."""
        return f"snippets.{self.category}.{self.name}"

    @property
    def page(self) -> str:
        """The page's path."""
        return f"docs/patterns/{self.category}/{self.slug}.md"

    @property
    def diagram(self) -> str:
        """The path of the Mermaid source of the page's diagram."""
        return f"docs/patterns/{self.category}/{self.slug}.mmd"

    @property
    def url(self) -> str:
        """The page's address below the site's root."""
        return f"patterns/{self.category}/{self.slug}/"

    @property
    def snippet(self) -> str:
        """The path of the module that a reader copies."""
        return f"snippets/{self.category}/{self.name}.py"

    @property
    def test(self) -> str:
        """The path of the proof."""
        return f"tests/{self.category}/test_{self.name}.py"

    def role(self, role: str) -> str:
        """Return the path of the `usage`, `naive` or `wiring` module."""
        return f"snippets/{self.category}/{self.name}_{role}.py"

    @property
    def modules(self) -> list[str]:
        """The module and those of its roles, whether they exist or not."""
        return [self.snippet, *(self.role(role) for role in ROLES)]

    @property
    def tests(self) -> list[str]:
        """The files of proof that exist: the mirror of the snippet and its topics."""
        folder = self.root / "tests" / self.category
        found = folder.glob(f"test_{self.name}__*.py")
        paths = [self.root / self.test, *sorted(found)]
        return [
            path.relative_to(self.root).as_posix() for path in paths if path.exists()
        ]

    @property
    def names(self) -> list[str]:
        """The public classes and functions of the module, in reading order.

        A module that is missing or is not Python is a `CatalogueError`.
        """
        tree = sources.parse(self.root, self.snippet)
        kinds = ast.ClassDef | sources.Function
        found = [node.name for node in tree.body if isinstance(node, kinds)]
        return [name for name in found if not name.startswith("_")]

    @property
    def companions(self) -> list[str]:
        """The other snippets this one imports, directly or not: they travel with it."""
        return sorted(_imported_snippets(self.root, [self.snippet]) - {self.snippet})

    @property
    def copied(self) -> list[str]:
        """What a reader copies: the module first, then what it imports."""
        return [self.snippet, *self.companions]

    @property
    def usage_needs(self) -> list[str]:
        """What the example imports besides: it runs where these are, too."""
        usage = self.role("usage")
        return sorted(_imported_snippets(self.root, [usage]) - {usage, *self.copied})

    @property
    def files(self) -> list[str]:
        """Every file whose bytes the pattern's proof is about."""
        own = [*self.modules, *self.tests]
        return sorted({*_imported_snippets(self.root, own), *self.tests})

    @property
    def surroundings(self) -> list[str]:
        """What else a run of the proof depends on: its fixtures, helpers, libraries."""
        fixtures = ["tests/conftest.py", f"tests/{self.category}/conftest.py"]
        helpers = _imported(self.root, [*fixtures, *self.tests])
        found = {*helpers, "requirements.txt"} - {*self.files}
        return sorted(path for path in found if (self.root / path).exists())

    @cached_property
    def front_matter(self) -> FrontMatter:
        """The page's front matter; a `CatalogueError` names the file and the line."""
        return read_front_matter(self.root, self.page)


def discover(root: Path = ROOT) -> list[Pattern]:
    """Return every pattern that has a page or a snippet, ordered by id."""
    pages = root.glob("docs/patterns/*/*.md")
    ids = {
        f"{page.parent.name}/{page.stem.replace('-', '_')}"
        for page in pages
        if page.stem != "index"
    }
    snippets = (root / "snippets").glob("*/*.py")
    ids |= {
        f"{path.parent.name}/{path.stem}"
        for path in snippets
        if path.stem.rpartition("_")[2] not in ROLES and path.stem != "__init__"
    }
    return [Pattern(id=id_, root=root) for id_ in sorted(ids)]


def find(id_: str, root: Path = ROOT) -> Pattern:
    """Return one pattern by its id; a `CatalogueError` lists what there is."""
    patterns = {pattern.id: pattern for pattern in discover(root)}
    if id_ not in patterns:
        known = ", ".join(patterns) or "none"
        raise CatalogueError(f"there is no pattern {id_!r}; the patterns are: {known}")
    return patterns[id_]


def read_fields(root: Path, page: str) -> tuple[yaml.Node | None, dict[str, object]]:
    """Return the fields of a page's front matter, as a YAML node and as values."""
    lines = sources.read(root, page).splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        message = "the page must start with front matter between two lines of ---"
        raise CatalogueError(f"{page}:1: {message}")
    text = "\n".join(lines[1 : lines.index("---", 1)])
    fault = "the front matter is not YAML"
    node, data = plain_yaml.read(text, page, before=1, what=fault)
    if not isinstance(data, dict):
        raise CatalogueError(f"{page}:2: the front matter must be a mapping of fields")
    return node, data


def read_front_matter(root: Path, page: str) -> FrontMatter:
    """Read and validate the front matter of a page."""
    node, data = read_fields(root, page)
    try:
        return FrontMatter.model_validate(data)
    except ValidationError as error:
        location, field, what = first_fault(error)
        line = plain_yaml.line_of(node, location) + 1
        message = f"{page}:{line}: front matter field {field!r}: {what}"
        raise CatalogueError(message) from error


def _imported_snippets(root: Path, paths: list[str]) -> set[str]:
    found = _imported(root, paths)
    return {path for path in found if path.startswith("snippets/")}


def _imported(root: Path, paths: list[str]) -> set[str]:
    """Return those files of this project that exist, and all that they import."""
    seen: set[str] = set()
    waiting = paths.copy()
    while waiting:
        current = waiting.pop()
        if current in seen or not (root / current).exists():
            continue
        seen.add(current)
        waiting.extend(_direct_imports(sources.read(root, current)))
    return seen


@lru_cache(maxsize=1024)
def _direct_imports(source: str) -> list[str]:
    """Return the files of this project that a module imports, or runs as a process.

    One that is no Python imports nothing here: the linter names it.
    """
    nodes = sources.nodes(source)
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [
        name.replace(".", "/") + ".py"
        for name in (*sources.imports(nodes), *texts)
        if isinstance(name, str) and OWN_MODULE.fullmatch(name)
    ]
