"""The verification record: which bytes passed which tests, where, when and with what.

`build/verification.json` holds one entry per pattern. Runs on different backends merge
into one entry as long as they are about the same bytes; an entry about other bytes than
today's counts as none.
"""

from __future__ import annotations

import fcntl
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from catalogue import sources
from catalogue.errors import CatalogueError
from catalogue.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from catalogue.patterns import Pattern

VERSION = 1
PATH = "build/verification.json"
KINDS = {
    "database_backend": ("sqlite", "postgresql"),
    "redis_backend": ("fakeredis", "redis"),
    "broker_backend": ("memory", "rabbitmq"),
}
"""Per fixture the embedded backend and the real one."""
REAL = dict(KINDS.values())
"""The real backend that each embedded one stands for."""
NAMES = {
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "fakeredis": "fakeredis",
    "redis": "Redis",
    "memory": "in-memory broker",
    "rabbitmq": "RabbitMQ",
    "": "no backend",
}
"""How a page names each backend; tests that need none run on the empty name."""


class Cost(Strict):
    """What one operation costs, in counts that a test asserted."""

    operation: str
    counts: dict[str, int]
    test: str


class Breakage(Strict):
    """What a test did to the naive version, and what happened."""

    action: str
    outcome: str
    test: str


class Difference(Strict):
    """How one backend behaves where another behaves differently."""

    title: str
    behaviour: str
    test: str


class Run(Strict):
    """One pattern's tests on one backend."""

    passed: list[str]
    failed: list[str]
    costs: list[Cost]
    breakages: list[Breakage]
    differences: list[Difference]
    versions: dict[str, str]
    commit: str
    date: str


class Verification(Strict):
    """What is known of one pattern: the bytes, and a run per backend."""

    files: dict[str, str]
    runs: dict[str, Run]

    @property
    def passed(self) -> bool:
        """Whether at least one test ran and none failed."""
        runs = self.runs.values()
        return any(run.passed for run in runs) and not any(run.failed for run in runs)

    @property
    def embedded(self) -> bool:
        """Whether the tests ran on the embedded backends, and none failed there."""
        runs = [run for name, run in self.runs.items() if name not in REAL.values()]
        return bool(runs) and not any(run.failed for run in runs)

    @property
    def missing(self) -> list[str]:
        """The real backends whose embedded stand-in was tested and that did not run."""
        wanted = {REAL[backend] for backend in self.runs if backend in REAL}
        return sorted(wanted - {name for name, run in self.runs.items() if run.passed})

    @property
    def state(self) -> str:
        """`proven`, `proven on embedded backends only` or `not verified`."""
        if not self.passed:
            return "not verified"
        return "proven on embedded backends only" if self.missing else "proven"

    def tests_passed(self) -> set[str]:
        """Return the ids, without `[...]`, of tests that passed wherever they ran."""
        runs = self.runs.values()
        passed = {test.partition("[")[0] for run in runs for test in run.passed}
        return passed - {test.partition("[")[0] for run in runs for test in run.failed}


class Record(Strict):
    """The whole record; `version` changes when a field does."""

    version: int = VERSION
    patterns: dict[str, Verification] = Field(default_factory=dict)

    def valid(self, pattern: Pattern) -> Verification | None:
        """Return what is known of exactly today's bytes of `pattern`, or None."""
        verification = self.patterns.get(pattern.id)
        if verification is None or verification.files != hashes(pattern):
            return None
        return verification


def hashes(pattern: Pattern) -> dict[str, str]:
    """Return the SHA-256 of each file that the proof of `pattern` depends on."""
    paths = sorted([*pattern.files, *pattern.surroundings])
    return {path: sha256(pattern.root / path) for path in paths}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Let nobody else change the record meanwhile, for two runs may end at once."""
    path = (root / PATH).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def load(root: Path) -> Record:
    """Read the record; an unreadable one is a `CatalogueError`, none an empty one."""
    path = root / PATH
    if not path.exists():
        return Record()
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        message = f"{PATH}:1: the record cannot be read; delete it and run make test"
        raise CatalogueError(message) from error
    if record.version != VERSION:
        raise CatalogueError(
            f"{PATH}:1: the record has version {record.version}, not {VERSION}; "
            "delete it and run make test"
        )
    return record


def save(root: Path, record: Record) -> None:
    """Write the record."""
    sources.write(root, PATH, record.model_dump_json(indent=2) + "\n")


def merge(record: Record, pattern: Pattern, runs: dict[str, Run]) -> Record:
    """Return the record with `runs`, without runs about other bytes."""
    known = record.valid(pattern)
    merged = {**(known.runs if known else {}), **runs}
    runs = dict(sorted(merged.items()))
    verification = Verification(files=hashes(pattern), runs=runs)
    patterns = {**record.patterns, pattern.id: verification}
    return record.model_copy(update={"patterns": dict(sorted(patterns.items()))})


def verified(record: Record, patterns: Iterable[Pattern]) -> dict[str, Verification]:
    """Return what is known of exactly today's bytes of each pattern, by its id."""
    found = ((pattern.id, record.valid(pattern)) for pattern in patterns)
    return {id_: verification for id_, verification in found if verification}


def state_of(record: Record, pattern: Pattern) -> str:
    """Return the state of exactly today's bytes of `pattern`."""
    return state(record.valid(pattern))


def state(verification: Verification | None) -> str:
    """Return the state of what is known of a pattern, if anything is."""
    return verification.state if verification else "not verified"


def unproven(record: Record, patterns: Iterable[Pattern]) -> list[Pattern]:
    """Return the patterns whose tests did not all pass on embedded backends."""
    return [
        pattern
        for pattern in patterns
        if not ((known := record.valid(pattern)) and known.embedded)
    ]
