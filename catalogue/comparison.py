"""The comparison in `docs/matrix.yaml`, read safely and held to its rules.

The original comparison is a document of 1 December 2025 that compared a FastAPI
template with Accent-Voice2. The file holds what it claims, what the code of both
systems shows, and which pattern is our answer. What follows from these (agreement,
scores, our own state) is computed in `catalogue.scores` and written nowhere.
"""

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias, get_args
from urllib.parse import quote

import yaml
from pydantic import (
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from catalogue import plain_yaml, sources
from catalogue.errors import CatalogueError
from catalogue.patterns import Pattern, PatternId, TestId
from catalogue.record import Verification
from catalogue.strict import Strict, first_fault

PATH = "docs/matrix.yaml"
SIZE_LIMIT = 1_000_000  # bytes; the file of 70 entries has 70,000
NOTE_WORDS = 25

SystemName: TypeAlias = Literal["template", "accent"]
SYSTEMS: tuple[SystemName, ...] = get_args(SystemName)
Kind: TypeAlias = Literal["row", "gap", "claim"]
State: TypeAlias = Literal["full", "partial", "none", "unknown"]
STATES: tuple[State, ...] = get_args(State)
Contradiction: TypeAlias = Literal["more", "less"]

SIZES: dict[Kind, int] = {"row": 60, "gap": 5, "claim": 5}
"""How many entries of each kind the original comparison has."""
_NAMES = {
    "architecture": ("feature-structure", "layering", "cli"),
    "settings": ("pydantic", "yaml", "env", "precedence"),
    "middleware": (
        *("asgi-base", "request-id", "correlation-id", "request-logging"),
        *("security-headers", "metrics", "rate-limiting", "size-limiting"),
        "tenant-context",
    ),
    "exceptions": ("rfc7807", "structured", "validation", "no-leakage"),
    "database": (
        *("async-sqlalchemy", "pooling", "generic-repository", "alembic"),
        *("soft-delete", "audit-tracking"),
    ),
    "observability": (
        *("structured-logging", "context", "prometheus", "tracing", "health"),
    ),
    "messaging": ("rabbitmq", "event-bus", "outbox", "dead-letter"),
    "caching": ("redis", "decorators", "invalidation"),
    "auth": ("accent-auth", "acl", "multi-tenancy", "token-caching"),
    "realtime": ("websocket", "broadcast", "graphql", "subscriptions"),
    "discovery": ("consul", "health-checks", "registration"),
    "tasks": ("taskiq", "apscheduler", "tracking"),
    "quality": ("ruff", "mypy", "pre-commit", "pytest", "coverage"),
    "deployment": ("docker", "compose", "health"),
    "graphql": ("dataloader", "subscription-filters", "directives", "federation"),
    "extensibility": ("plugin-system",),
    "reliability": (
        *("retry", "circuit-breaker", "graceful-degradation"),
        "health-aware-discovery",
    ),
    "devex": ("hot-reload",),
}
ENTRY_IDS = frozenset(
    f"{area}-{name}" for area, names in _NAMES.items() for name in names
)
"""Every entry of the original comparison; one gone from the file is an error."""

Text = Annotated[
    str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Count = Annotated[int, Field(strict=True, ge=0, le=1000)]


class System(Strict):
    """One of the two systems, at the commit that was read."""

    name: Text
    repository: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9-]+/[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    ]
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    date: dt.date

    @property
    def url(self) -> str:
        """The address of the whole tree at the commit."""
        return f"https://github.com/{self.repository}/tree/{self.commit}"


class Systems(Strict):
    """Both systems, under the names by which claims and findings refer to them."""

    template: System
    accent: System

    def of(self, system: SystemName) -> System:
        """Return one of the two."""
        return self.template if system == "template" else self.accent

    @property
    def names(self) -> tuple[str, str]:
        """Their names, the template's first."""
        return self.template.name, self.accent.name


class PrintedOverall(Strict):
    """The overall score as the original prints it."""

    complete: Count
    of: Count
    percent: Count


class PrintedCategory(Strict):
    """One line of the original's table of scores."""

    name: Text
    complete: Count
    partial: Count
    missing: Count
    of: Count
    percent: Count


class Gap(Strict):
    """One item of the original's list of gaps, and the entries that it is about."""

    number: Count
    title: Text
    priority: Literal["low", "medium", "high"]
    entries: tuple[str, ...]


class Phase(Strict):
    """One step of the original's plan, and the gaps that it takes up."""

    title: Text
    hours: tuple[Count, Count]
    gaps: tuple[Count, ...]


class Original(Strict):
    """What the original comparison prints about itself."""

    title: Text
    date: dt.date
    overall: PrintedOverall
    core_percent: Count
    effort_hours: tuple[Count, Count]
    categories: tuple[PrintedCategory, ...]
    gaps: tuple[Gap, ...]
    phases: tuple[Phase, ...]


class Claim(Strict):
    """What the original says of an entry in each of the two systems."""

    template: Literal["complete", "partial", "basic", "missing"]
    accent: Literal["yes", "advanced", "no", "unstated"]
    priority: Literal["none", "low", "medium", "high"]
    notes: Text

    def of(self, system: SystemName) -> str:
        """Return what is claimed of `system`, in the original's word."""
        return self.template if system == "template" else self.accent


class Evidence(Strict):
    """Lines of one file; both ends count, the first line is 1."""

    path: Text
    lines: str

    @field_validator("path")
    @classmethod
    def _stays_in_the_repository(cls, value: str) -> str:
        parts = value.split("/")
        plain = all(re.fullmatch(r"[\w.@+ -]+", part) for part in parts)
        if not plain or {".", ".."} & set(parts):
            raise ValueError(f"{value!r} is no plain path below the repository's root")
        return value

    @field_validator("lines")
    @classmethod
    def _runs_forwards(cls, value: str) -> str:
        found = re.fullmatch(r"([1-9]\d{0,5})-([1-9]\d{0,5})", value, re.ASCII)
        if not found or int(found[1]) > int(found[2]):
            raise ValueError(f"{value!r} is no range of lines, such as '12-20'")
        return value

    @property
    def first(self) -> int:
        """The first line."""
        return int(self.lines.partition("-")[0])

    @property
    def last(self) -> int:
        """The last line."""
        return int(self.lines.partition("-")[2])

    def url(self, system: System) -> str:
        """Return the address of exactly these lines at the system's commit."""
        place = f"{system.repository}/blob/{system.commit}/{quote(self.path)}"
        return f"https://github.com/{place}#L{self.first}-L{self.last}"


class Finding(Strict):
    """What the code of one system shows about an entry."""

    state: State
    note: Text
    evidence: tuple[Evidence, ...] = ()
    search: Text | None = None

    @field_validator("note")
    @classmethod
    def _is_short(cls, value: str) -> str:
        words = len(value.split())
        if words > NOTE_WORDS:
            raise ValueError(f"{words} words, but a note has at most {NOTE_WORDS}")
        return value

    @model_validator(mode="after")
    def _is_backed(self) -> Self:
        if self.state == "none" and (self.search is None or self.evidence):
            raise ValueError("state none needs the search that found nothing, only")
        if self.state != "none" and (self.search is not None or not self.evidence):
            raise ValueError(f"state {self.state} needs evidence, and no search")
        return self


class Ours(Strict):
    """Our answer: a pattern with the tests that show it, or one that is planned."""

    pattern: PatternId | None = None
    proofs: tuple[TestId, ...] = ()
    planned: PatternId | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.pattern is None) == (self.planned is None):
            raise ValueError("name either a pattern with its proofs, or one as planned")
        if bool(self.proofs) != (self.pattern is not None):
            raise ValueError("a pattern needs proofs; a planned one has none")
        return self


class Entry(Strict):
    """One feature: the claims, what the code shows, and our answer."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)+$")]
    category: Text
    feature: Text
    kind: Kind
    claim: Claim
    template: Finding
    accent: Finding
    ours: Ours

    def finding(self, system: SystemName) -> Finding:
        """Return what the code of `system` shows."""
        return self.template if system == "template" else self.accent

    def contradiction(self, system: SystemName) -> Contradiction | None:
        """Return whether more or less is claimed than the code of `system` shows.

        Of the template, complete agrees with full, partial and basic with partial, and
        missing with none. Of Accent-Voice2, yes agrees with full and partial, advanced
        with full, and no with none. What is unstated or unknown contradicts nothing.
        """
        state = self.finding(system).state
        claim = self.claim.of(system)
        if claim == "unstated" or state == "unknown" or state in _AGREES[claim]:
            return None
        claimed = max(_RANK[agreed] for agreed in _AGREES[claim])
        return "more" if claimed > _RANK[state] else "less"


_RANK = {"none": 0, "partial": 1, "full": 2}
_AGREES: dict[str, tuple[State, ...]] = {
    "complete": ("full",),
    "partial": ("partial",),
    "basic": ("partial",),
    "missing": ("none",),
    "yes": ("full", "partial"),
    "advanced": ("full",),
    "no": ("none",),
}


class Comparison(Strict):
    """Everything in the file, and the lines on which it stands."""

    systems: Systems
    original: Original
    entries: tuple[Entry, ...]
    _node: yaml.Node = PrivateAttr()

    def model_post_init(self, context: yaml.Node, /) -> None:
        """Keep the document, which is what validation has for its context."""
        self._node = context

    @property
    def rows(self) -> list[Entry]:
        """The entries that are rows of the original's matrix: scores count these."""
        return [entry for entry in self.entries if entry.kind == "row"]

    @property
    def categories(self) -> dict[str, list[Entry]]:
        """The entries by category, in the original's order."""
        return {
            name: [entry for entry in self.entries if entry.category == name]
            for name in dict.fromkeys(entry.category for entry in self.entries)
        }

    def error(self, message: str, *location: int | str) -> CatalogueError:
        """Return an error about the place in the file that `location` leads to."""
        line = plain_yaml.line_of(self._node, location)
        return CatalogueError(f"{PATH}:{line}: {message}")


def load(root: Path) -> Comparison:
    """Read and validate the file; a `CatalogueError` names its first fault and line.

    Whether patterns and proofs exist is not asked here; see `problems`.
    """
    path = root / PATH
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError as error:
        raise CatalogueError(f"{PATH}:1: the file is missing; restore it") from error
    if len(data) > SIZE_LIMIT:
        raise CatalogueError(f"{PATH}:1: the file is above {SIZE_LIMIT:,} bytes")
    return _parse(data)


@lru_cache(maxsize=4)
def _parse(data: bytes) -> Comparison:
    not_plain = "this is not plain YAML"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{PATH}:1: {not_plain}: {error}") from error
    node, raw = plain_yaml.read(text, PATH, what=not_plain)
    if node is None:
        raise CatalogueError(f"{PATH}:1: the file is empty; restore it")
    try:
        comparison = Comparison.model_validate(raw, context=node)
    except ValidationError as error:
        location, where, what = first_fault(error)
        line = plain_yaml.line_of(node, location)
        raise CatalogueError(f"{PATH}:{line}: {where}: {what}") from error
    for fault in _faults(comparison):
        raise fault
    return comparison


def _faults(comparison: Comparison) -> Iterator[CatalogueError]:
    """Find what is wrong between entries, and with the original's figures."""
    yield from _wrong_ids(comparison)
    yield from _wrong_sizes(comparison)
    yield from _wrong_references(comparison)


def _wrong_ids(comparison: Comparison) -> Iterator[CatalogueError]:
    ids = Counter(entry.id for entry in comparison.entries)
    for index, entry in enumerate(comparison.entries):
        if ids[entry.id] > 1:
            message = f"the id {entry.id!r} is given twice; keep one entry"
            yield comparison.error(message, "entries", index, "id")
        if entry.id not in ENTRY_IDS:
            message = f"{entry.id!r} is no entry of the original comparison; remove it"
            yield comparison.error(message, "entries", index, "id")
    if missing := sorted(ENTRY_IDS - ids.keys()):
        message = f"entries of the original are missing, restore: {', '.join(missing)}"
        yield comparison.error(message, "entries")


def _wrong_sizes(comparison: Comparison) -> Iterator[CatalogueError]:
    kinds = Counter(entry.kind for entry in comparison.entries)
    for kind, size in SIZES.items():
        if kinds[kind] != size:
            message = (
                f"{kinds[kind]} entries are of kind {kind}; the original has {size}"
            )
            yield comparison.error(message, "entries")
    rows = Counter(entry.category for entry in comparison.rows)
    printed = comparison.original.categories
    for name in sorted(rows.keys() - {one.name for one in printed}):
        message = f"the category {name!r} of rows is not among the original's"
        yield comparison.error(message, "original", "categories")
    for index, one in enumerate(printed):
        if rows[one.name] != one.of:
            message = f"{one.name} has {rows[one.name]} rows; the original has {one.of}"
            yield comparison.error(message, "original", "categories", index)


def _wrong_references(comparison: Comparison) -> Iterator[CatalogueError]:
    original = comparison.original
    for index, gap in enumerate(original.gaps):
        for unknown in sorted(set(gap.entries) - ENTRY_IDS):
            message = f"gap {gap.number} names {unknown!r}, which is no entry"
            yield comparison.error(message, "original", "gaps", index, "entries")
    numbers = {gap.number for gap in original.gaps}
    for index, phase in enumerate(original.phases):
        for number in sorted(set(phase.gaps) - numbers):
            message = f"the phase {phase.title!r} names gap {number}, not in the list"
            yield comparison.error(message, "original", "phases", index, "gaps")


def unknown_patterns(
    comparison: Comparison, patterns: Iterable[Pattern]
) -> list[CatalogueError]:
    """Return an error for each entry that names a pattern which does not exist."""
    known = {pattern.id for pattern in patterns}
    return [
        comparison.error(
            f"{entry.id}: there is no pattern {entry.ours.pattern!r}; "
            "correct the name, or say planned",
            *("entries", index, "ours", "pattern"),
        )
        for index, entry in enumerate(comparison.entries)
        if entry.ours.pattern is not None and entry.ours.pattern not in known
    ]


def problems(
    comparison: Comparison,
    patterns: Sequence[Pattern],
    verified: Mapping[str, Verification],
) -> list[CatalogueError]:
    """Return what the file says of our patterns and the tree or the record denies.

    `verified` has, by pattern id, what the record knows of exactly today's bytes. A
    proof must be a test in its pattern's own files; it must have passed wherever it
    ran, if the record knows the pattern at all.
    """
    known = {pattern.id: pattern for pattern in patterns}
    found = unknown_patterns(comparison, patterns)
    for index, entry in enumerate(comparison.entries):
        ours = entry.ours
        if ours.planned in known:
            message = (
                f"{entry.id}: the pattern {ours.planned!r} exists; "
                "link it: write pattern and proofs in place of planned"
            )
            found.append(comparison.error(message, "entries", index, "ours", "planned"))
        if ours.pattern not in known:
            continue
        tests = _tests(known[ours.pattern])
        run = verified.get(ours.pattern)
        for number, proof in enumerate(ours.proofs):
            if proof not in tests:
                what = f"is no test of {ours.pattern}; name one of its own"
            elif run is not None and proof not in run.tests_passed():
                what = "did not run or did not pass; mend it, or name another"
            else:
                continue
            place = ("entries", index, "ours", "proofs", number)
            found.append(comparison.error(f"{entry.id}: {proof} {what}", *place))
    return found


def _tests(pattern: Pattern) -> set[str]:
    """Return the node ids, without parameters, of the pattern's tests."""
    return {
        f"{path}::{name}"
        for path in pattern.tests
        for name in sources.tests(sources.parse(pattern.root, path))
    }
