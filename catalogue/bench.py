"""Measure a pattern beside a hand-written floor and peer libraries; keep the ratios.

The cases of a group take turns round by round in one process, in an order that
rotates, so that a machine which slows down slows all of them. The ratio to the floor
is taken within each round; the median and the quartiles of these ratios are kept.
Process CPU time, which includes a driver's threads, is the figure to read; wall clock
time stands beside it. No absolute time is kept, for it would describe a machine and
not the code.

Run all with `python -m catalogue.bench`, one with `--only <category>/<pattern>`.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal, TextIO

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import Field, ValidationError

from catalogue import markup, sources
from catalogue.errors import CatalogueError
from catalogue.markup import counted
from catalogue.patterns import ROOT, Pattern
from catalogue.record import sha256
from catalogue.strict import Strict, first_fault

SCHEMA_VERSION: Literal[1] = 1
FEWEST_ROUNDS = 3  # fewer have no quartiles
ROUND_SECONDS = 0.04  # CPU time which one round of the floor should last
WALL_LIMIT = 5  # a floor that waits is given at most this many times the wall time


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way of doing what the group does.

    `run` does it once. `setup` is awaited before each timed stretch and is not timed:
    use it to put state back. `expect` is asked once, before anything is timed, whether
    a result of `run` is right. `concurrency` above 1 makes one call a gather of so
    many. `package` is the installed distribution whose version is shown; left out, it
    is `name`, if a distribution of that name is installed.
    """

    group: str
    name: str
    run: Callable[[], Awaitable[object]]
    floor: bool = False
    ours: bool = False
    setup: Callable[[], Awaitable[object]] | None = None
    expect: Callable[[Any], bool] | None = None
    concurrency: int = 1
    package: str | None = None

    async def call(self) -> list[object]:
        """Run once, or `concurrency` times at once; return all results."""
        if self.concurrency == 1:
            return [await self.run()]
        return list(
            await asyncio.gather(*(self.run() for _ in range(self.concurrency)))
        )

    async def prepare(self) -> None:
        """Put the state back to where a timed stretch begins."""
        if self.setup is not None:
            await self.setup()


class Ratio(Strict):
    """The middle half of the rounds' ratios to the floor."""

    median: float
    q1: float
    q3: float


class CaseResult(Strict):
    """What one case cost, as a multiple of the floor's cost in the same round."""

    name: str
    role: Literal["floor", "ours", "peer"]
    version: str | None
    concurrency: int
    cpu: Ratio
    wall: Ratio


class GroupResult(Strict):
    """The cases that took turns, each with as many `calls` in each of the `rounds`."""

    name: str
    rounds: int
    calls: int
    cases: list[CaseResult]


class BenchResult(Strict):
    """One benchmark, as stored in `tests/<category>/bench_<pattern>.json`."""

    schema_version: Literal[1]
    pattern: str
    command: str
    date: date
    cpus: int
    python: str
    libraries: dict[str, str]
    servers: dict[str, str]
    files: dict[str, str]
    """The SHA-256 of the module and of each snippet that it imports."""
    groups: list[GroupResult]
    stale: bool = Field(default=False, exclude=True)
    """Whether one of the files has changed since; known only to `load_results`."""


async def compare(
    pattern_id: str,
    cases: Sequence[Case],
    *,
    rounds: int = 15,
    servers: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> BenchResult:
    """Measure all groups one after the other, write the result file, return the result.

    A pattern has one result file, so call this once with all its groups. `servers`
    names the servers that were used, with their versions. A case that raises, or whose
    result its `expect` refuses, ends the run with a `CatalogueError` naming it, and
    nothing is written.
    """
    groups = _grouped(pattern_id, cases, rounds)
    files = _measured_files(root, pattern_id)
    if not files:
        raise CatalogueError(
            f"{pattern_id}: there is no snippets/{pattern_id}.py; mend the id"
        )
    measured = [await _measure(pattern_id, group, rounds) for group in groups]
    result = BenchResult(
        schema_version=SCHEMA_VERSION,
        pattern=pattern_id,
        command=f"make bench only={pattern_id}",
        date=datetime.now(UTC).date(),
        cpus=os.cpu_count() or 1,
        python=platform.python_version(),
        libraries=_libraries(root),
        servers=dict(servers or {}),
        files=files,
        groups=measured,
    )
    text = json.dumps(
        result.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False
    )
    sources.write(root, _result_path(pattern_id), text + "\n")
    return result


def load_results(root: Path, pattern_id: str) -> BenchResult | None:
    """Return the pattern's last benchmark, or None if it has none.

    `stale` is set when the module or a snippet that it imports is gone or is no longer,
    byte for byte, the file that was measured. A result file that cannot be read raises
    `CatalogueError`.
    """
    path = _result_path(pattern_id)
    try:
        result = BenchResult.model_validate_json((root / path).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        _, where, what = first_fault(error)
        mend = f"run `make bench only={pattern_id}`"
        raise CatalogueError(f"{path}:1: {where}: {what}; {mend}") from error
    stale = _measured_files(root, pattern_id) != result.files
    return result.model_copy(update={"stale": stale})


def to_markdown(result: BenchResult) -> str:
    """Return the result as a captioned table per group and a line on how it was taken.

    The tables are HTML, because Markdown has no captions, and a table without one has
    no name for a reader who cannot see it.
    """
    parts = [_table(group) for group in result.groups]
    used = [*sorted(result.libraries.items()), *sorted(result.servers.items())]
    versions = ", ".join(f"{name} {version}" for name, version in used)
    parts.append(
        f"Taken with `{result.command}` on {result.date.isoformat()}, "
        f"{counted(result.cpus, 'CPU')}, Python {result.python}, {versions}. "
        "Each figure is a multiple of the floor's cost in the same round: the median, "
        "and in brackets the quartiles. Below 1 is cheaper than the floor."
    )
    if result.stale:
        parts.append(
            "These figures were taken from an earlier version of the file: "
            "it has changed since."
        )
    return "\n\n".join(parts) + "\n"


def discover(root: Path) -> dict[str, Path]:
    """Return the benchmarks of the tree, by the id of the pattern, in order."""
    paths = sorted((root / "tests").glob("*/bench_*.py"))
    return {
        f"{path.parent.name}/{path.stem.removeprefix('bench_')}": path for path in paths
    }


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the benchmarks one after the other, each in a process of its own.

    Returns 0; 1 if one failed, after the others have run too; 2 for a wrong command.
    """
    parser = argparse.ArgumentParser(
        prog="python -m catalogue.bench", description="Run benchmarks."
    )
    parser.add_argument(
        "--only", metavar="ID", help="run this pattern's benchmark alone"
    )
    only: str | None = parser.parse_args(arguments).only
    found = discover(root)
    if only is not None:
        if only not in found:
            known = ", ".join(found) or "none"
            _say(sys.stderr, f"{only}: no such benchmark; there are: {known}")
            return 2
        found = {only: found[only]}
    failed = [pattern_id for pattern_id in found if not _run(root, pattern_id)]
    done = counted(len(found) - len(failed), "benchmark")
    _say(sys.stdout, f"{done} done, {len(failed)} failed")
    return 1 if failed else 0


def _run(root: Path, pattern_id: str) -> bool:
    category, name = pattern_id.split("/")
    module = f"tests.{category}.bench_{name}"
    result = root / _result_path(pattern_id)
    before = result.stat().st_mtime_ns if result.exists() else None
    _say(sys.stdout, f"{pattern_id}: measuring")
    command = [sys.executable, "-m", module]
    status = subprocess.run(command, cwd=root, check=False).returncode
    if status != 0:
        problem = f"failed with exit status {status}"
    elif (result.stat().st_mtime_ns if result.exists() else None) == before:
        problem = f"wrote no {_result_path(pattern_id)}"
    else:
        return True
    _say(sys.stderr, f"{pattern_id}: `python -m {module}` {problem}")
    return False


def _say(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def _grouped(pattern_id: str, cases: Sequence[Case], rounds: int) -> list[list[Case]]:
    if rounds < FEWEST_ROUNDS:
        raise CatalogueError(
            f"{pattern_id}: {rounds} rounds are too few; ask for {FEWEST_ROUNDS}"
        )
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    for name, group in groups.items():
        where = f"{pattern_id}: {name}"
        if sum(case.floor for case in group) != 1:
            raise CatalogueError(f"{where}: mark exactly one case with floor=True")
        if len({case.name for case in group}) != len(group):
            raise CatalogueError(f"{where}: two cases have the same name")
        for case in group:
            with _named(pattern_id, case):
                _refuse_nonsense(case)
    if not groups:
        raise CatalogueError(f"{pattern_id}: there is no case to measure")
    return list(groups.values())


def _refuse_nonsense(case: Case) -> None:
    if case.floor and case.ours:
        raise CatalogueError("a case is the floor or ours, not both")
    if case.concurrency < 1:
        raise CatalogueError("concurrency is at least 1")
    if case.package and _version(case) is None:
        raise CatalogueError(f"{case.package} is not installed")


async def _measure(pattern_id: str, group: list[Case], rounds: int) -> GroupResult:
    floor = next(case for case in group if case.floor)
    spent: dict[str, list[tuple[float, float]]] = {case.name: [] for case in group}
    for case in group:
        with _named(pattern_id, case):
            await _check(case)
    with _own_garbage_only():
        with _named(pattern_id, floor):
            calls = await _calibrate(floor)
        for case in group:  # so that no case meets its first round cold
            with _named(pattern_id, case):
                await _stretch(case, calls)
        for number in range(rounds):
            turn = number % len(group)
            for case in group[turn:] + group[:turn]:
                with _named(pattern_id, case):
                    spent[case.name].append(await _stretch(case, calls))
    if any(0 in seconds for seconds in spent[floor.name]):
        raise CatalogueError(
            f"{pattern_id}: {floor.group}: the floor is too fast to be measured"
        )
    return GroupResult(
        name=floor.group,
        rounds=rounds,
        calls=calls,
        cases=[_result(case, spent[case.name], spent[floor.name]) for case in group],
    )


async def _check(case: Case) -> None:
    await case.prepare()
    for value in await case.call():
        if case.expect is not None and not case.expect(value):
            shown = repr(value)[:200]
            raise CatalogueError(f"returned what is not expected: {shown}")


async def _calibrate(floor: Case) -> int:
    calls = 1
    while True:
        cpu, wall = await _stretch(floor, calls)
        share = max(cpu / ROUND_SECONDS, wall / (WALL_LIMIT * ROUND_SECONDS))
        if share * 2 >= 1:
            return max(1, round(calls / share))
        calls *= 2


async def _stretch(case: Case, calls: int) -> tuple[float, float]:
    """Return the seconds of CPU and of wall time which so many calls took."""
    await case.prepare()
    gc.collect()  # a case pays for its own garbage, not for another's
    call = case.run if case.concurrency == 1 else case.call
    wall, cpu = perf_counter(), process_time()
    for _ in range(calls):
        await call()
    return process_time() - cpu, perf_counter() - wall


@contextmanager
def _own_garbage_only() -> Iterator[None]:
    """Leave the collector on, but spare it what was loaded before: no case made it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _named(pattern_id: str, case: Case) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        problem = (
            str(error) if isinstance(error, CatalogueError) else f"raised {error!r}"
        )
        raise CatalogueError(
            f"{pattern_id}: {case.group}: {case.name}: {problem}"
        ) from error


def _result(
    case: Case, spent: list[tuple[float, float]], floor: list[tuple[float, float]]
) -> CaseResult:
    pairs = list(zip(spent, floor, strict=True))
    return CaseResult(
        name=case.name,
        role="floor" if case.floor else "ours" if case.ours else "peer",
        version=_version(case),
        concurrency=case.concurrency,
        cpu=_ratio([mine[0] / base[0] for mine, base in pairs]),
        wall=_ratio([mine[1] / base[1] for mine, base in pairs]),
    )


def _ratio(ratios: list[float]) -> Ratio:
    q1, median, q3 = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median=_rounded(median), q1=_rounded(q1), q3=_rounded(q3))


def _rounded(ratio: float) -> float:
    """Keep three significant digits, and all digits before the point."""
    return round(ratio, max(0, 2 - math.floor(math.log10(ratio)))) if ratio > 0 else 0.0


def _version(case: Case) -> str | None:
    try:
        return importlib.metadata.version(case.package or case.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _libraries(root: Path) -> dict[str, str]:
    """Return the versions of the declared dependencies that this process has loaded."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    requirements: list[str] = list(project.get("dependencies", []))
    for extra in project.get("optional-dependencies", {}).values():
        requirements += extra
    declared = {canonicalize_name(Requirement(text).name) for text in requirements}
    loaded = {name.partition(".")[0] for name in sys.modules}
    names = {
        name
        for module, distributions in sources.providers().items()
        if module in loaded
        for name in map(canonicalize_name, distributions)
    }
    return {name: importlib.metadata.version(name) for name in sorted(declared & names)}


def _table(group: GroupResult) -> str:
    order = {"floor": 0, "ours": 1, "peer": 2}
    rounds, calls = counted(group.rounds, "round"), counted(group.calls, "call")
    caption = f"{group.name}: cost as a multiple of the floor, {rounds} of {calls} each"
    rows = [_row(case) for case in sorted(group.cases, key=lambda c: order[c.role])]
    return markup.table(caption, ("Way", "CPU time", "Wall time"), rows)


def _row(case: CaseResult) -> list[str]:
    name = markup.text(case.name)
    if case.version is not None:
        name += f" {markup.text(case.version)}"
    if case.concurrency > 1:
        name += f", {case.concurrency} callers at once"
    if case.role == "floor":
        return [f"{name} (the floor)", "1", "1"]
    if case.role == "ours":
        name += " (ours)"
    ratios = (case.cpu, case.wall)
    return [name, *(f"{r.median:g} ({r.q1:g} to {r.q3:g})" for r in ratios)]


def _result_path(pattern_id: str) -> str:
    category, name = pattern_id.split("/")
    return f"tests/{category}/bench_{name}.json"


def _measured_files(root: Path, pattern_id: str) -> dict[str, str]:
    copied = Pattern(id=pattern_id, root=root).copied
    return {path: sha256(root / path) for path in copied if (root / path).is_file()}


if __name__ == "__main__":
    sys.exit(main())
