"""A pytest plugin that runs tests on the backends asked for and records what passed.

`--backends embedded` (the default), `real` or `all` chooses. A test says what it needs
by its fixtures; `@pytest.mark.backends("postgresql")` narrows it to some. Nothing is
skipped: what is not asked for is not collected. A run of only some of a pattern's tests
is not recorded, since it would prove less than the pattern's page says.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from catalogue import record, sources
from catalogue.errors import CatalogueError
from catalogue.patterns import Pattern, discover
from catalogue.record import KINDS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path


class Proof:
    """What one test has to say on its pattern's page, if it passes."""

    def __init__(self, test: str) -> None:
        """Collect for the test with this node id."""
        self._test = test
        self.costs: list[record.Cost] = []
        self.breakages: list[record.Breakage] = []
        self.differences: list[record.Difference] = []

    def cost(self, operation: str, **counts: int) -> None:
        """Say what an operation costs; assert the counts first."""
        cost = record.Cost(operation=operation, counts=counts, test=self._test)
        self.costs.append(cost)

    def breaks(self, action: str, outcome: str) -> None:
        """Say what the naive version did when this was done to it; assert it first."""
        breakage = record.Breakage(action=action, outcome=outcome, test=self._test)
        self.breakages.append(breakage)

    def differs(self, title: str, behaviour: str) -> None:
        """Say how this backend behaves; on another, the same title says otherwise."""
        difference = record.Difference(
            title=title, behaviour=behaviour, test=self._test
        )
        self.differences.append(difference)


class Recorder:
    """Gathers the session's outcomes and writes them into the record at its end."""

    def __init__(self, root: Path) -> None:
        """Gather for the patterns of the tree at `root`."""
        self.root = root
        self.patterns = {
            test: pattern for pattern in discover(root) for test in pattern.tests
        }
        self.hashes: dict[str, dict[str, str]] = {}
        self.expected: dict[str, set[str]] = defaultdict(set)
        self.partial: set[str] = set()
        self.outcomes: dict[str, dict[str, list[tuple[str, bool, Proof]]]] = (
            defaultdict(lambda: defaultdict(list))
        )
        self.servers: dict[str, dict[str, str]] = defaultdict(dict)

    def pattern(self, item: pytest.Item) -> Pattern | None:
        """Return the pattern that a test proves, if it proves one."""
        return self.patterns.get(item.path.relative_to(self.root).as_posix())

    def write(self) -> None:
        """Merge each pattern that ran in full, on unchanged bytes, into the record."""
        with record.locked(self.root):
            self._merge()

    def _merge(self) -> None:
        known = record.load(self.root)
        about = _commit(self.root), datetime.now(UTC).isoformat("T", "seconds")
        for pattern in set(self.patterns.values()):
            backends = self.outcomes[pattern.id]
            seen = {test for run in backends.values() for test, _, _ in run}
            complete = seen and seen == self.expected[pattern.id]
            if not complete or pattern.id in self.partial:
                continue
            if record.hashes(pattern) != self.hashes[pattern.id]:
                continue
            versions = _versions(self.root, pattern)
            runs = {
                backend: _run(run, {**versions, **self.servers[backend]}, *about)
                for backend, run in backends.items()
            }
            known = record.merge(known, pattern, runs)
        record.save(self.root, known)


RECORDER: pytest.StashKey[Recorder] = pytest.StashKey()
PROOF: pytest.StashKey[Proof] = pytest.StashKey()
FAILED: pytest.StashKey[bool] = pytest.StashKey()


def note_server(config: pytest.Config, backend: str, name: str, number: str) -> None:
    """Remember the version of the server that a backend's tests ran on."""
    config.stash[RECORDER].servers[backend][name] = number


def backends_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the names of the backends that a test runs on, as `KINDS` orders them."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return tuple(str(parameters[kind]) for kind in KINDS if kind in parameters)


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    """Let a test say what its pattern's page shows."""
    node: pytest.Item = request.node
    return node.stash.setdefault(PROOF, Proof(node.nodeid))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--backends` and `--no-record`."""
    parser.addoption(
        "--backends",
        choices=("embedded", "real", "all"),
        default="embedded",
        help="which half of the backends to run on (default: embedded)",
    )
    parser.addoption(
        "--no-record",
        action="store_true",
        help="leave the verification record as it is, for libraries the site is not of",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start gathering."""
    config.addinivalue_line(
        "markers", "backends(*names): run this test on these backends only"
    )
    config.stash[RECORDER] = Recorder(config.rootpath)
    if not config.option.no_record:
        with _misuse():
            record.load(config.rootpath)  # else all the tests run before it is said


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test one set of parameters per half: all embedded, or all real."""
    kinds = [kind for kind in KINDS if kind in metafunc.fixturenames]
    if kinds:
        halves = zip(*(KINDS[kind] for kind in kinds), strict=True)
        metafunc.parametrize(kinds, list(halves), scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keep the tests of the half asked for; those without a backend are embedded."""
    half = config.getoption("--backends")
    recorder = config.stash[RECORDER]
    collected = {item.path.relative_to(config.rootpath).as_posix() for item in items}
    items[:] = [item for item in items if _wanted(item, half)]
    for item in items:
        if pattern := recorder.pattern(item):
            if pattern.id not in recorder.hashes:
                with _misuse():
                    recorder.hashes[pattern.id] = record.hashes(pattern)
            recorder.expected[pattern.id].add(item.nodeid)
    for pattern in recorder.patterns.values():
        if not collected.issuperset(pattern.tests):
            recorder.partial.add(pattern.id)
    for argument in config.args:
        path, _, chosen = argument.partition("::")
        if chosen and (pattern := recorder.patterns.get(_relative(path, config))):
            recorder.partial.add(pattern.id)


def pytest_deselected(items: Iterable[pytest.Item]) -> None:
    """Notice that `-k`, `-m` or `--lf` left tests out."""
    for item in items:
        recorder = item.config.stash[RECORDER]
        if pattern := recorder.pattern(item):
            recorder.partial.add(pattern.id)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a test as passed when set-up, call and teardown all passed."""
    report = yield
    recorder = item.config.stash[RECORDER]
    item.stash[FAILED] = item.stash.get(FAILED, False) or not report.passed
    pattern = recorder.pattern(item)
    if report.when == "teardown" and pattern:
        outcome = item.nodeid, not item.stash[FAILED], item.stash.get(PROOF, Proof(""))
        for backend in backends_of(item) or ("",):
            recorder.outcomes[pattern.id][backend].append(outcome)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the record."""
    option = session.config.option
    if not option.collectonly and not option.no_record:
        session.config.stash[RECORDER].write()


@contextmanager
def _misuse() -> Iterator[None]:
    """Say what is wrong in the tree in one line, and run nothing."""
    try:
        yield
    except CatalogueError as error:
        raise pytest.UsageError(str(error)) from error


def _wanted(item: pytest.Item, half: str) -> bool:
    backends = backends_of(item)
    only = item.get_closest_marker("backends")
    if only:
        fixtures = getattr(item, "fixturenames", ())
        possible = [name for kind in KINDS if kind in fixtures for name in KINDS[kind]]
        if not only.args or not set(only.args) <= set(possible):
            raise pytest.UsageError(
                f"{item.nodeid} would never run: its mark names {list(only.args)}, "
                f"its fixtures run on {possible}"
            )
        if not set(backends) & set(only.args):
            return False
    if half == "all":
        return True
    is_real = bool(backends) and backends[0] in record.REAL.values()
    return is_real == (half == "real")


def _relative(path: str, config: pytest.Config) -> str:
    absolute = (config.invocation_params.dir / path).resolve()
    if not absolute.is_relative_to(config.rootpath):
        return path
    return absolute.relative_to(config.rootpath).as_posix()


def _run(
    outcomes: list[tuple[str, bool, Proof]],
    versions: dict[str, str],
    commit: str,
    date: str,
) -> record.Run:
    proofs = [proof for _, passed, proof in outcomes if passed]
    return record.Run(
        passed=sorted(test for test, passed, _ in outcomes if passed),
        failed=sorted(test for test, passed, _ in outcomes if not passed),
        costs=[cost for proof in proofs for cost in proof.costs],
        breakages=[one for proof in proofs for one in proof.breakages],
        differences=[one for proof in proofs for one in proof.differences],
        versions=versions,
        commit=commit,
        date=date,
    )


def _commit(root: Path) -> str:
    """Return the commit of the tree, with a `+` when files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return ""  # what git alone knows is then not known
        return run.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    changed = commit and git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed else commit or "no commit"


def _versions(root: Path, pattern: Pattern) -> dict[str, str]:
    """Return the versions of Python and of every distribution that the files import."""
    packages = {
        name.partition(".")[0]
        for path in pattern.files
        for name in sources.imports(sources.nodes(sources.read(root, path)))
    }
    names = {name for one in packages for name in sources.providers().get(one, [])[:1]}
    python = ".".join(str(part) for part in sys.version_info[:3])
    return {"Python": python, **{name: version(name) for name in sorted(names)}}
